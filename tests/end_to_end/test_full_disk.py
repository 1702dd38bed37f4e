"""On a full disk a run ends with the name of the file that found no room, leaves no part, and goes on once there is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedveil import cli
from fedveil_clients import app

TINY = (
    "data.identities=6", "data.images_per_identity=3", "data.evaluation_identities=10", "data.evaluation_images=3",
    "data.public_identities=6", "data.public_images=2", "data.pairs=40", "train.clients=2", "train.rounds=3",
    "train.local.steps=1", "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0", "model.width=8",
    "evaluation.reference=false", "protection.fit_steps=0", "tracking=none", "engine=inline", "privacy.test_seed=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    app._site.cache_clear()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a few pages."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small file system here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resized(folder: Path, kibibytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", str(folder)], check=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        assert cli.main(["simulate", *TINY, "--json", "found.json"]) == 0
        return str(json.loads(Path("found.json").read_text())["model_sha256"])


def test_a_run_on_a_disk_that_is_full_again_and_again_names_the_file_each_time_and_ends_the_same(
    small: Path, uninterrupted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small)
    named, run_id = set(), None
    for kibibytes in (*range(4, 64, 4), *range(64, 400, 12), *range(400, 2000, 90)):
        resized(small, kibibytes)
        app._site.cache_clear()
        words = ["--resume", run_id] if run_id else TINY
        status = cli.main(["simulate", *words])
        shown = capsys.readouterr()
        run_id = next((path.parent.name for path in Path("runs").glob("*/config.json")), None)
        assert list(small.rglob(".*.*.*")) == [], "a part was left behind"
        if status == 0:
            break
        assert status == 2
        (said,) = shown.err.splitlines()
        file = next((word.rstrip(":") for word in said.replace("'", " ").split() if "/" in word), None)
        assert file is not None, said
        assert "No space left on device" in said or "database or disk is full" in said
        named.add(Path(file).suffix)
    assert status == 0
    assert json.loads(Path("runs", run_id, "result.json").read_text())["model_sha256"] == uninterrupted
    assert {".sqlite", ".json", ".npy", ".npz"} <= named, named


def test_a_place_that_cannot_be_written_is_named_and_what_only_reads_still_works(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small)
    resized(small, 9000)
    assert cli.main(["simulate", *TINY, "--json", "found.json"]) == 0
    run_id = json.loads(Path("found.json").read_text())["run_id"]
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    capsys.readouterr()
    for command in (["summary", run_id], ["ledger", run_id], ["audit", run_id, "--draws", "200"]):
        assert cli.main(command) in (0, 2)
        shown = capsys.readouterr().err
        assert shown == "" or "Nothing to audit" in shown
    for command in (["simulate", *TINY], ["ledger", run_id, "--json", "l.json"], ["bundle", "app"]):
        app._site.cache_clear()
        assert cli.main(command) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert "Read-only file system" in said
        assert "name another place" in said
        assert any(name in said for name in ("runs/", "l.json", "app"))
