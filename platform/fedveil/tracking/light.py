"""The light model in MLflow: named tensors and the run's configuration, which say which network it is.

`data/backbone.npz` holds float32 arrays under the network's own names and opens with NumPy alone; `data/config.json` is
the run's configuration without any place of the machine that trained it. Where fedveil is installed,
`mlflow.pyfunc.load_model("models:/MODEL_ID")` gives the network, which embeds what the protection releases: float32
(N, C, H, W), to (N, D).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fedveil
from fedveil import checks
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import set_tensors
from fedveil.records import Tensors
from fedveil.storage.disk import write_atomic

_TENSORS, _CONFIG = "backbone.npz", "config.json"


def save(federation: Federation, tensors: Tensors, folder: Path) -> None:
    """Write a light model, all but what the store alone knows of it, into a folder that is not there yet."""
    data = folder / "data"
    data.mkdir(parents=True)
    drawer = io.BytesIO()
    np.savez(drawer, allow_pickle=False, **tensors)
    write_atomic(data / _TENSORS, drawer.getvalue(), durable=False)
    write_atomic(data / _CONFIG, instruction.to_wire(federation.settings).encode(), durable=False)
    requirements = f"fedveil=={fedveil.__version__}\n"
    write_atomic(folder / "requirements.txt", requirements.encode(), durable=False)


class Embedder:
    """A network behind MLflow's one method."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        self.backbone = backbone.eval()

    def predict(self, representations: NDArray[np.float32], params: Mapping[str, Any] | None = None) -> Any:
        """Return embeddings (N, D) of representations (N, C, H, W), both float32."""
        with torch.no_grad():
            return self.backbone(torch.from_numpy(np.ascontiguousarray(representations))).numpy()


def _load_pyfunc(path: str) -> Embedder:
    """Return the network of a folder that `save` wrote; MLflow calls it by this name.

    Raises:
        fedveil.checks.UserError: a damaged file, or tensors of another network; the message names it.
    """
    folder = Path(path)
    try:
        backbone = instruction.from_wire((folder / _CONFIG).read_text(encoding="utf-8")).backbone()
        with np.load(folder / _TENSORS, allow_pickle=False) as file:
            set_tensors(backbone, {name: file[name] for name in file.files})
    except Exception as error:  # bytes that anything may have happened to: whatever reading them raises means damage
        reason = str(error) or "it is empty or cut short"
        raise checks.UserError(f"{folder} is no readable model of fedveil: {reason}. Log the run again.") from error
    return Embedder(backbone)
