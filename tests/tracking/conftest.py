"""One finished run, told to a store of its own, for all tests of this folder."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch

from fedveil import cli, config, readback, runs

TINY = (
    "data.identities=8", "data.images_per_identity=3", "data.evaluation_identities=10", "data.evaluation_images=3",
    "data.public_identities=6", "data.public_images=2", "data.pairs=40", "train.clients=4", "train.rounds=2",
    "train.local.steps=1", "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0", "model.width=8",
    "evaluation.reference=false", "engine=inline", "protection.fit_steps=0", "protection.total_epsilon=8",
)  # fmt: skip


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making its tables takes seconds."""
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run store with one run, without MLflow's."""
    place, threads = tmp_path_factory.mktemp("made"), torch.get_num_threads()
    words = [*TINY, f"runs.root={place / 'runs'}", f"vault.root={place / 'vault'}", "tracking=none"]
    assert cli.main(["simulate", "--plain", *words]) == 0
    torch.set_num_threads(threads)
    return place / "runs"


@pytest.fixture
def run(made: Path, blank: Path, tmp_path: Path) -> runs.Run:
    """A copy of the run, which belongs to the store beside it."""
    root = tmp_path / "runs"
    shutil.copytree(made, root)
    shutil.copy(blank, root / "mlflow.db")
    kept, _ = next(readback.finished(root))
    words = ["tracking=mlflow", "tracking.log_model=false", f"runs.root={root}"]
    tracked = config.load(words, on=readback.settings_of(kept))
    kept.config.write_text(config.to_json(tracked))
    return kept
