"""Drawn faces, and a small generator that knows what is usual among them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedveil.data.sources.procedural import draw_faces
from fedveil.generators._network import Generator

sys.path.append(str(Path(__file__).parent))  # for `tiny_generator`, which tests of several folders share


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    images = draw_faces(1, 0, 6, 4, 32).images(np.arange(24))
    return torch.from_numpy(images).float().sub(127.5).div(127.5)


@pytest.fixture
def generator(pixels: torch.Tensor) -> Generator:
    from tiny_generator import built

    found = built()
    found.fit(pixels)
    return found
