"""A backbone as a folder that MLflow loads and serves without fedveil: seconds, and megabytes of MLflow and torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


def save(backbone: torch.nn.Module, inputs: Sequence[int], folder: Path) -> None:
    """Write a backbone that reads (N, C, H, W) as a folder that MLflow loads without fedveil.

    Args:
        backbone: left as it is.
        inputs: (C, H, W).
        folder: is not there yet.
    """
    import mlflow
    import mlflow.pyfunc
    import mlflow.pytorch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    still = copy.deepcopy(backbone).cpu().float().eval()
    # Zeros: a face has no business in the store. Two of them: torch.export makes a batch of one a constant. And a
    # tensor: MLflow would write an array as text, twice, which is tens of megabytes for a frequency representation.
    pair = torch.zeros(2, *inputs)
    with torch.no_grad():
        width = still(pair).shape[1]
    kind = np.dtype(np.float32)
    signature = ModelSignature(  # without names: MLflow's torch flavour takes one bare array
        inputs=Schema([TensorSpec(kind, (-1, *inputs))]),
        outputs=Schema([TensorSpec(kind, (-1, width))]),
    )
    described = Model()
    mlflow.pytorch.save_model(  # a traced graph (pt2): loads without fedveil and without unpickling code
        still,
        str(folder),
        mlflow_model=described,
        signature=signature,
        input_example=pair,
        serialization_format="pt2",
        pip_requirements=[  # given, because MLflow's inference of them takes long and asks the network
            f"mlflow=={mlflow.__version__}",
            f"torch=={torch.__version__.partition('+')[0]}",
            f"numpy=={np.__version__}",
        ],
    )
    # MLflow leaves this flavour out when it is given a tensor; `mlflow.pyfunc.load_model` and serving need it.
    mlflow.pyfunc.add_to_model(
        described,
        loader_module="mlflow.pytorch",
        data="data",
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config={"device": None},
    )
    described.save(str(folder / "MLmodel"))
