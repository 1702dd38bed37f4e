"""fedveil: federated face recognition on protected faces, with honest privacy accounting."""

import os

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
