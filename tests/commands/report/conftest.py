"""A run store that nobody computed: folders as runs and attacks leave them, with numbers that a test chooses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedveil import config, runs
from fedveil.federation import planning
from fedveil.privacy import statements
from fedveil.privacy.events import LocalRelease, NonPrivate
from fedveil.privacy.ledger import Ledger, Row

WORDS = ("study=quick",)
UNITS = {"ssim": "", "psnr": "dB"}


def measured(name: str, value: float | None, **more: Any) -> dict[str, Any]:
    made = {"name": name, "value": value, "low": None, "high": None, "floor": None, "ceiling": None}
    if value is not None and "low" not in more:
        more |= {"low": max(0.0, value - 0.05), "high": value + 0.05 if name == "psnr" else min(1.0, value + 0.05)}
    return {**made, "mean_face": None, "unit": UNITS.get(name, "share"), "said": f"what {name} is", **more}


def finding(attack: str, values: Mapping[str, float | None], **more: Any) -> dict[str, Any]:
    """Return a finding without its run, as `Finding.to_dict` has it."""
    common = {"floor": 0.01, "ceiling": 0.98}
    return {
        "attack": attack, "level": "adaptive", "settings": {"images": 2500, "seed": 1}, "protection": "dctdp",
        "what": f"{attack} was fitted to pairs of the attacker's own people.", "judge": {"name": "own", "far": 0.01},
        "people": {name: {"people": 50, "images": 100, "digest": "0123abcd"} for name in ("attacker", "victims")},
        "measures": [measured(name, value, **common) for name, value in values.items()], "curves": {}, "notes": [],
        "seconds": 12.5, "seconds_per_image": 0.02, "peak_memory_mb": 300.0,
        "verdict": f"{attack} finds {values.get('linked')} again.", **more,
    }  # fmt: skip


@dataclasses.dataclass
class Store:
    """A run store in the making."""

    root: Path
    cells: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def run(
        self, run_id: str, words: Sequence[str], accuracy: float, findings: Sequence[dict[str, Any]] = (), **more: Any
    ) -> runs.Run:
        """Add a finished run; its statements are priced from its ledger's one row, those of `claims` stand beside."""
        run = runs.Run(self.root, run_id)
        settings = planning.planned(config.load([*WORDS, *words, f"runs.root={self.root}"]))
        runs.write_json(run.config, config.to_tree(settings))
        budget = settings.protection.settings.get("total_epsilon")
        event: Any = NonPrivate("image", "the representation", "nothing is hidden")
        if budget is not None:
            event = LocalRelease("laplace", budget, max_images_per_identity=20)
        Ledger(run.ledger).append([Row(run_id, "run", "spent", event)])
        found = [one.to_dict() for one in statements.price(event)] + more.pop("claims", [])
        final = {"accuracy": accuracy, "fold_sd": 0.02, "draw_sd": None, "eer": 1 - accuracy, "auc": accuracy,
                 "tar": {"0.1": accuracy / 2, "0.01": {"omitted": "too few pairs"}}}  # fmt: skip
        result = {"run_id": run_id, "config_hash": config.digest(settings), "rounds": [], "final": final,
                  "collapsed": accuracy < 0.52, "statements": found, "model_sha256": "0" * 64, "private": False,
                  "device": "cpu", "wall_seconds": 65.0, "peak_memory_mb": 300.0, **more}  # fmt: skip
        if settings.privacy.client is not None:
            del result["wall_seconds"], result["peak_memory_mb"]
        runs.write_json(run.result, result)
        for one in findings:
            self.attack(run, one)
        return run

    def attack(self, run: runs.Run, found: dict[str, Any]) -> Path:
        """Add a finding to a run."""
        named = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8]
        path = run.folder / "attacks" / f"{found['attack']}-{named}.json"
        runs.write_json(path, {"run_id": run.run_id, **found})
        return path

    def cell(self, values: Mapping[str, str], state: str = "finished", reason: str = "", **more: Any) -> str:
        """Add a run to the sweep; with an accuracy it has finished."""
        run_id = f"sweep-fake-{len(self.cells):02d}"
        if "accuracy" in more:
            self.run(run_id, [f"{key}={value}" for key, value in values.items()], **more)
        said = more.get("accuracy")
        self.cells.append({"run_id": run_id, "values": dict(values), "state": state, "accuracy": said,
                           "reason": reason})  # fmt: skip
        return run_id

    def sweep(self, sweep_id: str = "sweep-fake", words: Sequence[str] = ("protection=none,dctdp",)) -> str:
        """Write the list of the cells."""
        tree = {"sweep_id": sweep_id, "state": "finished", "words": [*words], "grid": {}, "cells": self.cells}
        runs.write_json(self.root / sweep_id / "sweep.json", tree)
        return sweep_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def fake() -> Callable[..., dict[str, Any]]:
    return finding


@pytest.fixture
def measure() -> Callable[..., dict[str, Any]]:
    return measured


@pytest.fixture(scope="session")
def frontier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of seven methods; nobody changes it."""
    made = Store(tmp_path_factory.mktemp("frontier") / "runs")
    return made.root / seven_methods(made)


def seven_methods(store: Store) -> str:
    """Write a sweep of seven methods over two seeds, most of them attacked, and return its id."""
    levels = {"none": (0.86, 0.98, 0.99), "dct": (0.85, 0.98, 0.98), "duetface": (0.82, 0.95, 0.9),
              "partialface": (0.78, 0.97, 0.85), "minusface": (0.76, 0.2, 0.5),
              "advface": (0.8, 0.7, 0.75)}  # fmt: skip
    for seed in (1, 2):
        for name, (accuracy, linked, ssim) in levels.items():
            shares = {"linked": linked - 0.02 * seed, "rank1": linked - 0.1, "rank5": linked, "replayed": linked - 0.05,
                      "ssim": ssim, "psnr": 30 * ssim}  # fmt: skip
            weak = {key: value / 2 for key, value in shares.items()}
            store.cell({"protection": name, "seed": str(seed)}, accuracy=accuracy + 0.01 * seed,
                       findings=[finding("linear", weak), finding("distillation", shares)])  # fmt: skip
        for epsilon, accuracy, linked in ((8, 0.5, 0.01), (200, 0.62, 0.05), (1000, 0.78, 0.19)):
            shares = {"linked": linked, "rank1": linked, "replayed": None, "ssim": 0.3 + linked}
            attacked = [finding("linear", shares)] if seed == 1 and epsilon != 200 else []
            store.cell({"protection": "dctdp", "protection.total_epsilon": str(epsilon), "seed": str(seed)},
                       accuracy=accuracy + 0.01 * seed, findings=attacked)  # fmt: skip
    store.cell({"protection": "dctdp", "protection.total_epsilon": "9", "seed": "1"}, "failed", "no such folder")
    return store.sweep()
