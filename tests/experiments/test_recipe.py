"""The recipe's study: its table by hand, its arms, its cells against the product's own runs, and its queue."""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedveil.commands import simulate
from fedveil.federation.federation import Federation
from fedveil.records import model_sha256

FOLDER = Path(__file__).parents[2] / "experiments"
TINY = [
    "tracking=none", "engine=inline", "data.identities=24", "data.images_per_identity=6", "model.width=8",
    "model.embedding=16", "data.evaluation_identities=10", "data.evaluation_images=3", "data.public_identities=8",
    "data.public_images=3", "data.pairs=40", "evaluation.draws=1", "evaluation.bootstrap=0", "evaluation.every=1000",
    "evaluation.reference=false",
]  # fmt: skip


def loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # which dataclasses look into
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return loaded("recipe_run", FOLDER / "recipe" / "run.py")


@pytest.fixture(scope="module")
def one_cell() -> ModuleType:
    return loaded("recipe_cells", FOLDER / "recipe" / "cells.py")


def cells(arm: str, values: list[float], size: int = 32, gain: float = 0.01) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "seed": seed, "size": size, "passes": 8, "model": "tiny_ir", "device": "cpu", "accuracy": value,
         "auc": value + 0.1, "flip_accuracy": value + gain, "flip_auc": value + 0.1, "cpu_seconds": 10.0}
        for seed, value in enumerate(values, 1)
    ]  # fmt: skip


def test_a_difference_is_paired_by_seed_and_has_a_standard_error(study: ModuleType) -> None:
    base, other = cells("base", [0.8, 0.7, 0.75]), cells("flip", [0.82, 0.71, 0.78])
    found = np.array([2.0, 1.0, 3.0])
    expected = f"{found.mean():+.1f} ({found.std(ddof=1) / np.sqrt(3):.1f})"
    paired = loaded("recipe_table", FOLDER / "recipe" / "table.py").paired
    assert paired(other[::-1], base, "accuracy") == expected == "+2.0 (0.6)"
    assert paired(other[:1], base, "accuracy") == "+2.0 (-)"
    assert paired(other[:1], base[1:], "accuracy") == "-"


def test_the_table_compares_with_the_arm_that_differs_in_one_thing(study: ModuleType) -> None:
    done = [*cells("base", [0.8, 0.8]), *cells("dctdp", [0.6, 0.6]), *cells("dctdp, flip", [0.65, 0.63]),
            *cells("flip", [0.9, 0.9], size=64)]  # fmt: skip
    done += [{**entry, "model": "iresnet18", "device": "cuda:0 (a GPU)"} for entry in done[-2:]]
    text = study.table(done, list(study.ARMS), study.base_of)
    small, large, other = text.replace("64 px, iresnet18", "64 px, tiny_ir").split("64 px, tiny_ir, 8 passes, ")
    assert small.startswith("32 px, tiny_ir, 8 passes, cpu:")
    assert large.startswith("cuda:0 (a GPU):")
    assert other.startswith("cpu:")
    rows = [line for line in small.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in rows] == ["| arm", "| base", "| dctdp", "| dctdp, flip"]
    assert rows[1] == "| base | - | 80.0 | 90.0 | - | - | +1.0 (0.0), +0.0 (0.0) | 10 | 2 |"
    assert "| base | 60.0 | 70.0 | -20.0 (0.0) |" in rows[2]
    assert "| dctdp | 64.0 | 74.0 | +4.0 (1.0) |" in rows[3]
    assert "| flip | - | 90.0 |" in large, "a base of another size is none"


def test_every_arm_is_a_federation_and_has_its_base(study: ModuleType) -> None:
    for arm in study.ARMS:
        assert study.base_of(arm) in study.ARMS
        for model in study.MODELS:
            words = study.Cell(arm, 1, 32, 8, model).words("lfw.npz", "cpu", "fp32")
            assert Federation.of(words).settings.model.name == model


@pytest.mark.parametrize(
    "words",
    [
        ["protection=none", "train.augment.flip=true", "train.schedule.kind=cosine", "train.augment.crop=0.1"],
        ["protection=none", "train.correction=scaffold", "train.class_share=0.5"],
        ["protection=dctdp", "protection.fit_steps=3", "privacy.test_seed=3", "train.augment.flip=true"],
    ],
    ids=["flip", "scaffold", "dctdp"],
)
def test_a_federated_cell_is_what_simulate_makes(one_cell: ModuleType, words: list[str], tmp_path: Path) -> None:
    words = [*TINY, *words, "train.rounds=2", "train.clients=3"]
    first = [f"runs.root={tmp_path / 'runs'}", f"vault.root={tmp_path / 'vault'}"]
    result = simulate.simulate(Federation.of([*words, *first]), "run", "quiet")
    again = [f"runs.root={tmp_path / 'again'}", f"vault.root={tmp_path / 'other'}"]
    with one_cell.opened(Federation.of([*words, *again])) as session:
        tensors = one_cell.federated(session)
        found = one_cell.evaluated(session, tensors, flip=False)
    assert model_sha256(tensors) == result["model_sha256"]
    assert found == {name: result["final"][name] for name in ("accuracy", "auc", "eer")}


def test_central_training_is_that_of_the_other_study(one_cell: ModuleType, tmp_path: Path) -> None:
    other = loaded("federated_vs_central_run", FOLDER / "federated_vs_central" / "run.py")

    def federation(name: str, *more: str) -> Federation:
        kept = [f"{what}.root={tmp_path / name / what}" for what in ("runs", "vault")]
        return Federation.of([*TINY, "protection=none", "train.clients=1", "train.rounds=1", *kept, *more])

    plain = federation("plain")
    images, other.PASSES = len(plain.split.train), 3
    with one_cell.opened(plain) as session, one_cell.opened(federation("flip", "train.augment.flip=true")) as mirrored:
        tensors = one_cell.central(session, round(other.PASSES * images / plain.settings.train.batch_size))
        found = one_cell.evaluated(session, tensors, flip=False)
        first, second = one_cell.central(session, 3), one_cell.central(mirrored, 3)
    assert model_sha256(first) != model_sha256(second)
    whole = other.central(plain, images)
    assert (found["accuracy"], found["eer"]) == (whole["accuracy"], whole["eer"])


def test_a_cell_counts_passes_over_all_images_whoever_has_them(one_cell: ModuleType) -> None:
    words = [*TINY, "protection=none", "train.batch_size=12", "train.local.steps=2"]
    silos = one_cell.trained(words, 3, 2, alone=False)
    assert silos["rounds"] == round(2 * silos["images"] / 3 / 12 / 2)
    alone = one_cell.trained(words, 3, 2, alone=True)
    assert alone["images"] == silos["images"]
    assert alone["accuracy"] != silos["accuracy"]
    assert min(one_cell.seconds_of(words, 3)) >= 0


def test_a_cell_needs_neither_flower_nor_a_tracker() -> None:
    code = (
        "import sys, run, cells; run.Cell('flip', 1, 32, 1, 'tiny_ir');"
        f"cells.trained({[*TINY, 'protection=none']!r}, 2, 0, alone=False);"
        "assert not {'flwr', 'mlflow', 'opacus'} & {name.partition('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=FOLDER / "recipe", check=True)


def test_the_queue_writes_each_cell_under_its_name_and_skips_what_is_there(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def finished(cell: Any, *how: str) -> dict[str, Any]:
        asked.append((cell.arm, cell.seed))
        if cell.arm == "cosine":
            raise ValueError("this arm fails")
        return {**study.dataclasses.asdict(cell), "accuracy": 0.1 * len(cell.arm), "seconds": 1.0}

    threads = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(study.concurrent.futures, "ProcessPoolExecutor", lambda workers, context: threads(workers))
    monkeypatch.setattr(study, "finished", finished)
    monkeypatch.setattr(study, "timed", lambda cell, *how: (1.0, 2.0))
    chosen = argparse.Namespace(
        lfw="lfw.npz", device="cpu", precision="fp32", size=32, model="tiny_ir", only=["flip", "cosine", "scaffold"],
        workers=2, minutes=10.0, passes=3, out=tmp_path / "rows.jsonl",
    )  # fmt: skip
    assert study.run(chosen) == 3
    rows = study.results(chosen.out)
    assert {(row["arm"], row["seed"]) for row in rows} == {(a, s) for a in ("flip", "scaffold") for s in study.SEEDS}
    assert all(row["accuracy"] == 0.1 * len(row["arm"]) for row in rows)
    assert {seed for _, seed in asked[:3]} == {1}, "every arm once, before any has a second seed"
    del asked[:]
    assert study.run(chosen) == 3
    assert {arm for arm, _ in asked} == {"cosine"}, "what is there is not run again"
    chosen.passes, chosen.minutes = None, 1.5  # 9 cells, 2 workers: 20 s each, of which a share is spent
    study.run(chosen)
    assert {row["passes"] for row in study.results(chosen.out)} == {3, int((study.SHARE * 20 - 1) / 2)}
    del asked[:]
    chosen.minutes = 0.0
    chosen.passes = 4
    study.run(chosen)
    assert not asked
