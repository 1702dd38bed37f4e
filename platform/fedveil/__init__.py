"""fedveil: federated face recognition on protected faces, with honest privacy accounting.

`fedveil.simulate("study=quick")` runs a federation from Python (`simulation`); it is imported when it is first named.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedveil.simulation import Result as Result
    from fedveil.simulation import simulate as simulate

# Calls home stay off unless the user switches them on: Flower, MLflow, Ray and what diffusers stands on read these
# variables when they are first imported, so they are set here, before anything of fedveil can import them.
for _variable, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
}.items():
    os.environ.setdefault(_variable, _value)
del _variable, _value

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("Result", "simulate"):  # all the rest of fedveil stands below it, and most of its users need none
        return getattr(importlib.import_module("fedveil.simulation"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
