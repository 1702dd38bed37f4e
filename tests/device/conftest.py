"""A small public set, fitted protections, and what stands in for a step of a client."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from fedveil.configuration import plugins
from fedveil.data.sources.procedural import draw_faces

SIZE = (32, 32)
QUICK = {"fit_steps": 1, "client_rounds": 1, "split_rounds": 1, "federated_rounds": 1}
"""Settings that cost time, and those that give a method its phases."""


def public() -> tuple[np.ndarray, np.ndarray]:
    faces = draw_faces(1, 0, identities=4, images_per_identity=3, size=SIZE[0])
    return faces.images(np.arange(len(faces))), np.asarray(faces.labels)


def built(name: str, **more: Any) -> Any:
    known = {field.name for field in dataclasses.fields(plugins.method("protection", name))}
    return plugins.build("protection", name, {k: v for k, v in {**QUICK, **more}.items() if k in known})


VARIANTS = [
    *((name, {}) for name in plugins.names("protection")),
    ("dctdp", {"mode": "coefficient"}),
    ("dctdp", {"input_layout": "upsampled", "noise": "gaussian", "spatial": True}),
    ("advface", {"fine_tune": True, "guard": 1.0, "variant": "direct"}),
]
"""Every protection, and the settings that take other roads through its code."""


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join([variant[0], *map(str, variant[1])]), scope="session")
def fitted(request: pytest.FixtureRequest) -> tuple[str, Any, dict[str, torch.Tensor]]:
    name, more = request.param
    protection = built(name, **more)
    return name, protection, protection.fit(*public(), 1)
