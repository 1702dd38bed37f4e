"""What every test starts from: one thread, as the engines have it, and an environment that names no tracking store."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Small backward passes in several threads have ended the interpreter on some processors and builds of torch.
torch.set_num_threads(1)

# How long an example takes is no property of the code: a busy machine would fail it.
settings.register_profile("fedveil", deadline=None)
settings.load_profile("fedveil")

TRACKING = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "FEDVEIL_ADDRESSES")
for _name in TRACKING:  # before the fixtures of modules, too
    os.environ.pop(_name, None)


@pytest.fixture(autouse=True)
def no_store_in_the_environment() -> Iterator[None]:
    """Forget what a test has remembered there: MLflow's `set_tracking_uri` writes it as well."""
    yield
    for name in TRACKING:
        os.environ.pop(name, None)
