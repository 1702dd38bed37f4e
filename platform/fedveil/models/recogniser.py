"""What a recognition service runs: from what left an owner to an embedding of length one."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import Any, cast

import torch
from torch import nn

from fedveil import checks

INPUT, OUTPUT = "release", "embedding"
_NEEDED = ("onnx", "onnxscript")


class Recogniser(nn.Module):
    """(B, *representation) of a protection to (B, D) of length one: its public part, then the backbone."""

    def __init__(self, protection: Any, state: dict[str, torch.Tensor], backbone: nn.Module) -> None:
        super().__init__()
        self._protection, self._state, self.backbone = protection, state, backbone

    def forward(self, released: torch.Tensor) -> torch.Tensor:
        """Return the embeddings; the cosine of two is their dot product."""
        embeddings = self.backbone(self._protection.features(released, self._state))
        return nn.functional.normalize(cast(torch.Tensor, embeddings))


def check_exporter() -> None:
    """Raise `UserError` unless what PyTorch's exporter needs is installed; the message names the extra."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise checks.UserError(f"--onnx needs {' and '.join(missing)}: pip install 'fedveil[export]'.")


def to_onnx(recogniser: Recogniser, example: torch.Tensor) -> bytes:
    """Return a recogniser as an ONNX model; its batches may have any size.

    Args:
        recogniser: on the host.
        example: two releases or more.

    Raises:
        fedveil.checks.UserError: PyTorch cannot export this protection or network.
    """
    check_exporter()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that nothing here uses
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations inside PyTorch's own exporter
            program = torch.onnx.export(
                recogniser.eval(), (example,), input_names=[INPUT], output_names=[OUTPUT], dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
            )  # fmt: skip
            assert program is not None
            data: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # whatever the exporter meets in a plug-in's network
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise checks.UserError(
            f"PyTorch {torch.__version__} does not export this recogniser to ONNX: {reason} --safetensors writes its "
            "tensors."
        ) from error
    return data


def difference(model: bytes, recogniser: Recogniser, released: torch.Tensor) -> float | None:
    """Return the largest difference of an ONNX model's embeddings from torch's; None where onnxruntime is missing."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run([OUTPUT], {INPUT: released.numpy()})[0]
    with torch.no_grad():
        return float((torch.from_numpy(found) - recogniser(released)).abs().max())
