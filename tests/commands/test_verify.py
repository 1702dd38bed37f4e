"""`fedveil verify`: a finished run on the sets of the field; every set is read before one is evaluated."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedveil import checks, cli, readback, runs
from fedveil.commands import verify
from fedveil.data.sources.procedural import Procedural

TINY = [
    "protection=none", "train.rounds=1", "train.clients=2", "data.identities=4", "data.pairs=40",
    "data.evaluation_identities=20", "data.public_identities=4", "train.local.steps=1", "tracking=none",
    "evaluation.draws=1", "evaluation.bootstrap=0", "evaluation.reference=false", "engine=inline",
    "evaluation.flip=auto",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_id(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("runs")
    words = [*TINY, f"runs.root={root}", f"vault.root={root / 'vault'}"]
    assert cli.main(["simulate", *words, "--json", str(root / "out.json")]) == 0
    return json.loads((root / "out.json").read_text())["run_id"], f"runs.root={root}"


def packed(path: Path) -> None:
    """Pack the run's own pairs, losslessly, as a verification set."""
    pairs = Procedural(identities=4, pairs=40, evaluation_identities=20, public_identities=4).load(1).evaluation
    pictures = []
    for place in np.stack([pairs.left, pairs.right], 1).ravel():
        buffer = io.BytesIO()
        Image.fromarray(pairs.faces.images([place])[0].transpose(1, 2, 0)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    path.write_bytes(pickle.dumps((pictures, pairs.same.tolist())))


def test_the_runs_own_pairs_give_the_runs_own_numbers(
    run_id: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed(tmp_path / "own.bin")
    out = tmp_path / "found.json"
    assert cli.main(["verify", run_id[0], str(tmp_path), run_id[1], "--public", "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    found = json.loads(out.read_text())["sets"]["own.bin"]
    run = runs.open_run(Path(run_id[1].partition("=")[2]), run_id[0])
    final = readback.result_of(run)["final"]
    assert found["eer"] == pytest.approx(final["eer"], abs=1e-6)
    assert found["auc"] == pytest.approx(final["auc"], abs=1e-6)


def test_what_cannot_be_evaluated_is_named_first(
    run_id: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed(tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for words, message in (
        ([str(tmp_path)], "nobody has said that they are public. Say so with --public"),
        ([str(tmp_path), "--public"], "b.bin is not read: byte 0: it names 'os'.'system'"),
        ([str(tmp_path / "none.bin"), "--public"], "none.bin is missing"),
        ([str(tmp_path / "a.bin"), "--public", "--draws", "0"], "Expected draws=0 > 0"),
    ):
        assert cli.main(["verify", run_id[0], *words, run_id[1]]) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert not said.out
    assert cli.main(["verify", "no-such-run", str(tmp_path), "--public", run_id[1]]) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        checks.UserError, match=r"holds no file of verification pairs \(\.bin or \.csv\), and is not IJB"
    ):
        verify.sets_of(tmp_path / "empty")
