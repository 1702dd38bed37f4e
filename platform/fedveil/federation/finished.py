"""What a finished run made: its federation, the learnt state of its protection, its backbone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from fedveil import checks, readback, runs
from fedveil.configuration.schema import Config
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import set_tensors


@dataclasses.dataclass(frozen=True)
class Model:
    """A finished run's federation, its protection's state (in the host's memory), and its backbone, evaluating."""

    federation: Federation
    state: dict[str, torch.Tensor]
    backbone: nn.Module


def model_of(own: Config, run_id: str) -> Model:
    """Return the model of a finished run, on the device of this configuration and from its run store.

    Raises:
        fedveil.checks.UserError: no such run, one that has not ended, or a damaged or incomplete file of it.
    """
    run = runs.open_run(Path(own.runs.root), run_id)
    kept = readback.settings_of(run)
    if kept.generator.name != "none":
        raise checks.UserError(
            f"Run {run_id} trained a generator of faces, which recognises nobody: `fedveil synthesize "
            f"synthesis.generator={run_id}` draws faces from it and judges them."
        )
    here = dataclasses.replace(kept, device=own.device, device_batch=own.device_batch, runs=own.runs)
    federation = Federation(here)
    readback.result_of(run)
    arrays, _ = readback.checkpoint_of(run)
    tensors = {name[7:]: value for name, value in arrays.items() if name.startswith("tensor/")}
    if not tensors:
        raise checks.UserError(f"{run.checkpoint}, which holds the model, is missing; restore it.")
    state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("state/")}
    try:
        federation.protection.check_state(state, federation.size)
    except checks.UserError as error:
        raise checks.UserError(
            f"{run.checkpoint} holds no state that protection={kept.protection.name} can work with: {error}"
        ) from error
    backbone = federation.place.module(federation.backbone())
    set_tensors(backbone, tensors)
    return Model(federation, state, backbone.eval())
