"""The study of private training: its arms, its search, its tables by hand, its cells against the product's own runs."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedveil import config
from fedveil.commands import simulate
from fedveil.federation.federation import Federation
from fedveil.records import model_sha256

FOLDER = Path(__file__).parents[2] / "experiments"
TINY = [
    "tracking=none", "engine=inline", "data.identities=24", "data.images_per_identity=6", "model.width=8",
    "model.embedding=16", "data.evaluation_identities=10", "data.evaluation_images=3", "data.public_identities=8",
    "data.public_images=3", "data.pairs=40", "evaluation.draws=1", "evaluation.bootstrap=0", "evaluation.every=1000",
    "evaluation.reference=false", "train.clients=3", "train.rounds=3", "protection=none", "train.local.steps=1",
    "privacy.image.epsilon=8", "privacy.image.sampling_rate=1.0", "privacy.image.rows=8", "train.average=0.5",
    "privacy.image.noise_end=2.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("private_run", FOLDER / "private_training" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["private_run"] = made  # which dataclasses look into
    spec.loader.exec_module(made)
    return made


def result(arm: str, unit: str, seed: int, auc: float, **more: Any) -> dict[str, Any]:
    return {
        "arm": arm, "unit": unit, "seed": seed, "chosen": {}, "accuracy": auc - 0.1, "auc": auc, "start_auc": 0.7,
        "proven": 7.99, "numbers": 1000, "seconds": 3.0, "device": "cpu", **more,
    }  # fmt: skip


def test_every_arm_is_a_configuration_and_says_what_it_asks(study: ModuleType) -> None:
    chosen = {unit: study.pairs(study.search.drawn(number)) for number, unit in enumerate(study.UNITS)}
    for cell in study.cells(list(study.ARMS), chosen):
        settings = config.load(cell.words("lfw.npz", "cpu"))
        asked = {unit: getattr(settings.privacy, unit) for unit in study.UNITS}
        own = asked.pop(cell.unit) if cell.unit else None
        assert all(other is None for other in asked.values())
        assert (own.epsilon if own else None) == (float(study.ARMS[cell.arm].epsilon) if cell.unit else None)
        assert settings.seed == cell.seed


@pytest.mark.parametrize("arm", ["image 8", "identity inf, dctdp", "not private", "1,000 clients, identity 8"])
def test_an_arm_is_accepted_by_a_federation(study: ModuleType, arm: str) -> None:
    (cell, *_) = study.cells([arm], {})
    assert Federation.of(cell.words("lfw.npz", "cpu")).settings.seed == 1


def test_a_cell_is_what_simulate_makes(study: ModuleType, tmp_path: Path) -> None:
    import cells

    words = [*TINY, "privacy.test_seed=3"]
    first = [f"runs.root={tmp_path / 'runs'}", f"vault.root={tmp_path / 'vault'}"]
    whole = simulate.simulate(Federation.of([*words, *first]), "run", "quiet")
    again = [f"runs.root={tmp_path / 'again'}", f"vault.root={tmp_path / 'other'}"]
    with cells.opened(Federation.of([*words, *again])) as session:
        assert model_sha256(cells.federated(session)) == whole["model_sha256"]


def test_a_cell_says_what_its_ledger_proves_and_needs_neither_flower_nor_a_tracker() -> None:
    code = (
        "import json, sys, run, private_cells; found = private_cells.trained(json.loads(sys.argv[1]));"
        "assert not {'flwr', 'mlflow', 'opacus'} & {name.partition('.')[0] for name in sys.modules};"
        "print(json.dumps(found))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, json.dumps(TINY)], cwd=FOLDER / "private_training", check=True, capture_output=True
    )
    found = json.loads(said.stdout.splitlines()[-1])
    assert 7.9 < found["proven"] <= 8
    assert found["rounds"] == 3
    assert 0 <= found["auc"] <= 1


def test_a_search_is_won_by_the_best_mean_of_all_seeds(study: ModuleType) -> None:
    good, lucky, other = ({"train.lr": value} for value in ("1", "2", "3"))
    done = [result("search", "image", seed, auc, chosen=good) for seed, auc in ((1, 0.8), (2, 0.8), (3, 0.8))]
    assert study.search.best(done[:2], "image") is None
    done += [result("search", "image", seed, auc, chosen=lucky) for seed, auc in ((1, 0.9), (2, 0.7), (3, 0.7))]
    done += [result("search", "image", 1, 0.95, chosen=other), result("search", "identity", 1, 0.99, chosen=other)]
    assert study.search.best(done, "image") == good
    assert study.search.finalists(done, "image") == [other, lucky, good]
    assert study.search.drawn(3) == study.search.drawn(3) != study.search.drawn(4)
    assert "data.view=1" in study.Cell("search", "image", 1).words("lfw.npz", "cpu")


def test_the_tables_by_hand(study: ModuleType, tmp_path: Path) -> None:
    done = [result("image 8", "image", seed, auc) for seed, auc in ((1, 0.80), (2, 0.82))]
    done += [result("no average", "image", seed, auc) for seed, auc in ((2, 0.79), (1, 0.78))]
    done += [result("image inf", "image", 1, 0.9, proven=None), result("image 8, dctdp", "image", 1, 0.6)]
    (tmp_path / "audited.json").write_text('{"image 8": 1.25}')
    lines = study.report(done, study.ARMS, tmp_path / "audited.json").splitlines()
    first = "| image | 8 | 7.99 | 1.25 | 71.0 (1.4) | 81.0 (1.4) | +11.0 (1.0) | 50.0, 60.0 | 3 | 2 |"
    assert lines[2:4] == [first, "| image | inf | none | - | 80.0 | 90.0 | +20.0 | -, - | 3 | 1 |"]
    assert "| no average | 7.99 | 68.5 (0.7) | 78.5 (0.7) | +8.5 (0.5) | -2.5 (0.5) | 1,000 | 3 | 2 |" in lines


def test_the_queue_writes_each_cell_and_skips_what_is_there(study: ModuleType, tmp_path: Path) -> None:
    wanted, asked = list(study.cells(["image 8", "no average"], {})), []

    def submit(cell: Any) -> concurrent.futures.Future[dict[str, Any]]:
        asked.append(cell)
        job = concurrent.futures.Future[dict[str, Any]]()
        if cell.seed == 3:
            job.set_exception(RuntimeError("no"))
        else:
            job.set_result(result(cell.arm, cell.unit, cell.seed, 0.8))
        return job

    out = tmp_path / "results.jsonl"
    assert study.run(submit, wanted, out, 2, float("inf")) == 2
    assert asked == wanted
    asked.clear()
    with out.open("a") as stream:
        stream.write('{"arm": "ima')
    assert study.run(submit, wanted, out, 2, float("inf")) == 2
    assert {cell.seed for cell in asked} == {3}
    assert study.run(submit, wanted, tmp_path / "late.jsonl", 2, 0.0) == 0


@pytest.mark.parametrize("unit", ["image", "identity"])
def test_an_audited_bound_is_below_what_is_proven(study: ModuleType, unit: str) -> None:
    import audited

    name, found = audited.lower(unit, "8", 2000)
    assert name == f"{unit} 8"
    assert 1 < found <= 8
