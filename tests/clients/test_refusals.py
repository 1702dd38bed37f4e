"""The owner's own record: in the vault, or beside the node's file, never a reason to make a vault."""

from __future__ import annotations

from fedveil_clients import node, refusals


def test_the_log_is_in_the_vault_or_beside_the_file_or_nowhere(tmp_path):
    words = {"vault-root": str(tmp_path / "vault")}
    assert refusals.log_of(words, {}) is None
    file = tmp_path / "own" / "node.toml"
    file.parent.mkdir()
    file.write_text("")
    assert refusals.log_of(words, {node.FILE: str(file)}) == tmp_path / "own" / "refusals.log"
    (tmp_path / "vault").mkdir()
    assert refusals.log_of(words, {node.FILE: str(file)}) == tmp_path / "vault" / "refusals.log"
    assert refusals.log_of({"simulated": True}, {node.FILE: str(file)}) is None


def test_a_line_has_time_run_and_reason_for_the_owner_alone(tmp_path):
    path = tmp_path / "refusals.log"
    refusals.record(path, "run-7", "one\nline\x00")
    refusals.record(path, "", "unknown run")
    refusals.record(None, "run-7", "nowhere")
    first, second = path.read_text().splitlines()
    assert first.endswith(" run run-7: one line\x00")
    assert first[:4].isdigit()
    assert second.endswith(" run ?: unknown run")
    assert path.stat().st_mode & 0o777 == 0o600


def test_asking_all_day_fills_no_disk_and_a_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(refusals, "_LARGEST", 2000)
    path = tmp_path / "refusals.log"
    for _ in range(100):
        refusals.record(path, "r", "x" * 10_000)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 10_000
    path.unlink()
    (tmp_path / "elsewhere").write_text("kept")
    path.symlink_to(tmp_path / "elsewhere")
    refusals.record(path, "r", "reason")
    assert (tmp_path / "elsewhere").read_text() == "kept"
