"""The owner's own record: in the vault, or beside the node's file, never a reason to make a vault."""

from __future__ import annotations

from fedveil_clients import node, refusals


def test_the_log_is_in_the_vault_or_beside_the_file_or_nowhere(tmp_path):
    words = {"vault-root": str(tmp_path / "vault")}
    assert refusals.places(words, {}) == []
    file = tmp_path / "own" / "node.toml"
    file.parent.mkdir()
    file.write_text("")
    own = tmp_path / "own" / "refusals.log"
    assert refusals.places(words, {node.FILE: str(file)}) == [own]
    (tmp_path / "vault").mkdir()
    assert refusals.places(words, {node.FILE: str(file)}) == [tmp_path / "vault" / "refusals.log", own]
    assert refusals.places({"simulated": True}, {node.FILE: str(file)}) == []


def test_a_line_has_time_run_and_reason_for_the_owner_alone(tmp_path, capsys):
    words, path = {"vault-root": str(tmp_path)}, tmp_path / "refusals.log"
    refusals.record(words, "run-7", "one\nline\x00\u2028\x1b[2J")
    refusals.record(words, "", "unknown run")
    first, second = path.read_text().splitlines()
    assert first.endswith(" run run-7: one line [2J")
    assert first[:4].isdigit()
    assert second.endswith(" run ?: unknown run")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry[1:] for entry in refusals.read(path)] == [("run-7", "one line [2J"), ("", "unknown run")]
    assert capsys.readouterr().err == ""


def test_where_no_log_can_be_written_the_line_goes_elsewhere(tmp_path, capsys):
    """A folder in the log's place stands for a full disk; the file of words may lie on another one."""
    (tmp_path / "vault" / "refusals.log").mkdir(parents=True)
    words, file = {"vault-root": str(tmp_path / "vault")}, tmp_path / "node.toml"
    file.write_text("")
    refusals.record(words, "a", "reason", {node.FILE: str(file)})
    assert (tmp_path / "refusals.log").read_text().endswith("run a: reason\n")
    refusals.record(words, "b", "reason", {})
    assert capsys.readouterr().err.endswith("run b: reason\n")
    refusals.record({**words, "simulated": True}, "c", "reason", {})
    assert capsys.readouterr().err == ""


def test_asking_all_day_fills_no_disk_and_a_link_is_not_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(refusals, "_LARGEST", 2000)
    words, path = {"vault-root": str(tmp_path)}, tmp_path / "refusals.log"
    for _ in range(100):
        refusals.record(words, "r", "x" * 10_000)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 10_000
    path.unlink()
    (tmp_path / "elsewhere").write_text("kept")
    path.symlink_to(tmp_path / "elsewhere")
    refusals.record(words, "r", "reason")
    assert (tmp_path / "elsewhere").read_text() == "kept"
    assert "run r: reason" in capsys.readouterr().err
