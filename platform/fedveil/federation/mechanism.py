"""Which mechanism noisy copies come from: the same name on both sides, a function of public values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import torch

from fedveil import device, frequency
from fedveil.federation.federation import Federation
from fedveil.privacy import noise


def mechanism_id(federation: Federation, state: Mapping[str, torch.Tensor]) -> bytes:
    """Return a hash of everything a draw depends on but the record.

    The method's settings (its noise, budget, clip and ranges among them), its learnt state, the size, and the versions
    of the transform and of the noise's code.
    """
    method = federation.settings.protection
    version = noise.version(federation.protection.noise_kind)
    parts = [method.name, dict(method.settings), list(federation.size), frequency.VERSION, version]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    state = device.on_host(state)
    for name in sorted(state):
        values = np.ascontiguousarray(state[name].numpy())
        digest.update(f"{name}\x1f{values.dtype}\x1f{values.shape}\x1f".encode() + values.tobytes())
    return digest.digest()
