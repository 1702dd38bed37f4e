"""Whatever happens to a file of a run or of a vault, every command that reads it says which, why and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedveil import cli, runs
from fedveil_clients import app
from fedveil_strategies import observers

TINY = (
    "data.identities=6", "data.images_per_identity=3", "data.evaluation_identities=10", "data.evaluation_images=3",
    "data.public_identities=6", "data.public_images=2", "data.pairs=40", "train.clients=2", "train.rounds=2",
    "train.local.steps=1", "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0",
    "evaluation.reference=false", "tracking=none", "engine=inline",
)  # fmt: skip
PROTECTED = ("protection.fit_steps=0", "protection.total_epsilon=8")
ONE, TWO = "ended", "interrupted"


def stop(self: observers.Watch, report: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, one that was interrupted after its first round, their vault, and a sweep that has ended."""
    folder, threads = tmp_path_factory.mktemp("store"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(observers, "draw", lambda *_: [])
        ids = iter((ONE, TWO))
        patch.setattr(runs, "new_run_id", lambda label: next(ids))
        assert cli.main(["simulate", *TINY, "protection=none"]) == 0
        patch.setattr(observers.Watch, "track", stop)
        assert cli.main(["simulate", *TINY, *PROTECTED]) == 130
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["sweep", *TINY, "protection=none", "seed=1,2", "--name", "s"]) == 0
    (folder / "faces").mkdir()
    Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(folder / "faces" / "a.png")
    torch.set_num_threads(threads)
    return folder


RESUME_ENDED, RESUME = ["simulate", "--resume", ONE], ["simulate", "--resume", TWO]
LEDGER, AUDIT, SUMMARY = ["ledger", TWO], ["audit", TWO, "--draws", "200"], ["summary", ONE]
ENROL = ["enrol", ONE, "faces", "--owner", "mine", "--out", "g.npz"]
OWNER = ["ledger", "--owner", "mine"]
SWEEP = ["sweep", *TINY, "protection=none", "seed=1,2", "--name", "s"]

READERS: dict[str, list[list[str]]] = {
    f"runs/{ONE}/config.json": [RESUME_ENDED, SUMMARY, ENROL, ["ledger", ONE], ["audit", ONE]],
    f"runs/{ONE}/result.json": [RESUME_ENDED, SUMMARY, ENROL],
    f"runs/{ONE}/checkpoint.npz": [ENROL, ["ledger", ONE], ["audit", ONE]],
    f"runs/{ONE}/ledger.sqlite": [["ledger", ONE], ["audit", ONE]],
    f"runs/{TWO}/config.json": [RESUME, LEDGER, AUDIT, ["ledger", TWO, "--picture", "p.png"]],
    f"runs/{TWO}/vaults.json": [RESUME],
    f"runs/{TWO}/checkpoint.npz": [RESUME, LEDGER, AUDIT],
    f"runs/{TWO}/ledger.sqlite": [RESUME, LEDGER, AUDIT],
    "runs/sweep-s-*/result.json": [SWEEP],
    ".fedveil/vault/owner.key": [RESUME, ENROL],
    ".fedveil/vault/ledger.sqlite": [RESUME, SUMMARY, ENROL, OWNER],
    ".fedveil/vault/copies/index.sqlite": [RESUME],
    ".fedveil/vault/copies/*.npy": [RESUME],
    f".fedveil/vault/heads/{TWO}/*/*.npz": [RESUME],
}

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "another type": lambda whole: b"[[1, 2], {}]",
    "no text": lambda whole: b"\xff\xfe\x00" + whole,
}

CASES = [(name, how, place) for name, readers in READERS.items() for how in DAMAGES for place in range(len(readers))]


@pytest.fixture
def copied(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(store, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    monkeypatch.setattr("fedveil_clients.vault.time.sleep", lambda _: None)
    threads = torch.get_num_threads()
    app._site.cache_clear()  # what this process opened in another test's vault
    yield tmp_path / "here"
    torch.set_num_threads(threads)


def damaged(name: str, how: str) -> list[Path]:
    paths = sorted(Path().glob(name))
    assert paths
    for path in paths:
        path.write_bytes(DAMAGES[how](path.read_bytes()))
    return paths


@pytest.mark.parametrize(("name", "how", "place"), CASES)
def test_a_damaged_file_is_named_by_every_command_that_reads_it(
    copied: Path, capsys: pytest.CaptureFixture[str], name: str, how: str, place: int
) -> None:
    paths = damaged(name, how)
    assert cli.main(READERS[name][place]) == 2
    shown = capsys.readouterr().err
    said = [line for line in shown.splitlines() if not line.startswith("left out: ")]
    assert len(said) == 1, shown
    assert said[0].startswith("fedveil: ")
    assert any(str(path) in said[0] for path in paths)
    assert any(word in said[0] for word in ("estore", "Remove it")), "no remedy"
    assert "Traceback" not in shown


WRONG = {
    f"runs/{ONE}/result.json": ["final.accuracy='high'", "statements=3", "rounds=[{}]", "final={}", "run_id=null"],
    f"runs/{ONE}/config.json": ["train.rounds='many'", "protection=3", "data={}", "data.name=3", "seed=null", "runs=1"],
    f"runs/{TWO}/vaults.json": ["c0001=3", "c0002=null"],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in WRONG for change in WRONG[name]])
def test_a_value_of_another_type_deep_within_is_named(
    copied: Path, capsys: pytest.CaptureFixture[str], name: str, change: str
) -> None:
    tree = json.loads(Path(name).read_text())
    key, _, value = change.partition("=")
    inner, (*path, last) = tree, key.split(".")
    for step in path:
        inner = inner[step]
    inner[last] = json.loads(value.replace("'", '"'))
    Path(name).write_text(json.dumps(tree))
    for command in READERS[name]:
        assert cli.main(command) == 2
        assert f"fedveil: {name}" in capsys.readouterr().err


def test_a_checkpoint_of_another_network_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(f"runs/{TWO}/checkpoint.npz")
    arrays, meta = runs.unpack(path)
    some = next(name for name in arrays if name.startswith("tensor/"))
    for wrong in ({k: v for k, v in arrays.items() if k != some}, {**arrays, some: np.zeros(3, np.float32)}):
        runs.write_atomic(path, runs.pack(wrong, meta))
        assert cli.main(RESUME) == 2
        assert f"{path} holds another network; restore this run's own" in capsys.readouterr().err
    runs.write_atomic(path, runs.pack(arrays, {**meta, "stage": 7}))
    assert cli.main(RESUME) == 2
    assert f"{path} is the checkpoint of another run" in capsys.readouterr().err


@pytest.mark.parametrize("how", DAMAGES)
def test_a_foreign_run_that_is_damaged_is_left_out_with_a_note(
    copied: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Looking for the reference among all results must not fail for a run that is nobody's concern."""
    Path("runs/foreign").mkdir()
    Path("runs/foreign/result.json").write_bytes(DAMAGES[how](Path(f"runs/{ONE}/result.json").read_bytes()))
    assert cli.main([*RESUME]) == 0
    capsys.readouterr()
    words = [word for word in TINY if not word.startswith("evaluation.reference")]
    assert cli.main(["simulate", *words, *PROTECTED, "--plain"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("left out: runs/foreign/result.json is not a readable result") == 1
    assert "no protection" in shown.out  # the ended run was found as the reference all the same


@pytest.mark.parametrize("how", DAMAGES)
def test_a_sweeps_own_list_is_written_anew(copied: Path, how: str) -> None:
    damaged("runs/sweep-s/sweep.json", how)
    assert cli.main(SWEEP) == 0
    assert json.loads(Path("runs/sweep-s/sweep.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    "command", [["ledger", TWO], ["ledger", TWO, "--picture", "grown.png"], ["audit", TWO], [*RESUME]],
    ids=["ledger", "picture", "audit", "resume"],
)  # fmt: skip
def test_an_empty_ledger_is_no_ledger_without_rows(
    copied: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file without rows would read as a run that claims nothing; the checkpoint remembers that there were some."""
    Path(f"runs/{TWO}/ledger.sqlite").unlink()
    assert cli.main(command) == 2
    assert "cut, rolled back or replaced" in capsys.readouterr().err
