"""The page that MLflow's UI opens on: accuracy against budget and against what attacks recover.

MLflow keeps a shared view as a tag of the experiment, `mlflow.sharedViewState.KEY`, and shows it at an address that
names the key. Its value is an envelope (name, date, state); the state is what the page itself keeps: columns, grouping,
charts. Nothing in it depends on the runs, so every store has the same one.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection
from typing import Any
from urllib.parse import urlencode

KEY = "frontier"
TAG = f"mlflow.sharedViewState.{KEY}"
GROUP = "fedveil.method"
"""The tag by which runs are grouped: method and budget, so that a group's members differ in their seed."""
ORDER = "fedveil.order"
"""The tag by which they are sorted: the same with numbers in their order."""
KIND = "fedveil.kind"
"""The tag that tells runs, sweeps and attacks apart; attacks stand on the page as their runs' `linked` and `rank1`."""

NUMBERS = ("epsilon_image", "epsilon_identity", "epsilon_client", "linked", "rank1")
"""What accuracy is drawn against: three budgets, then what attacks recover."""

_COLUMNS = (
    "metrics.`accuracy`", *(f"metrics.`{name}`" for name in NUMBERS), "tags.`fedveil.protection`", "params.`seed`",
)  # fmt: skip
_WIDTHS = {"attributes.`Run Name`": 270, **dict.fromkeys(_COLUMNS, 132), "params.`seed`": 60}
"""In the order in which they stand, pixels."""
_FRONTIER, _ROUNDS, _REST = "fedveil-frontier", "fedveil-rounds", "fedveil-rest"


def state(known: Collection[str] = NUMBERS) -> dict[str, Any]:
    """Return what the page shows, in MLflow's own words.

    Args:
        known: which of `NUMBERS` some run has: MLflow draws an empty chart of any other.
    """
    charts = [_scatter(name, "accuracy") for name in NUMBERS if name in known]
    charts += [_scatter(name, "linked") for name in NUMBERS[:3] if {name, "linked"} <= {*known}]
    charts += [_line(name) for name in ("accuracy", "eer")]
    return {
        "searchFilter": f"tags.`{KIND}` != 'attack'",
        "orderByKey": f"tags.`{ORDER}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [*_COLUMNS],
        "columnOrder": [*_WIDTHS],
        "columnWidths": {**_WIDTHS},
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": GROUP}]},
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,  # sections in the order of this list
        "compareRunSections": [
            _section(_FRONTIER, "Accuracy against budget and leakage"),
            _section(_ROUNDS, "Over the rounds"),
            _section(_REST, "Model metrics", shown=False),  # where MLflow puts a chart of every other number
        ],
        "compareRunCharts": charts,
    }


def _section(uuid: str, name: str, shown: bool = True) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": shown, "isReordered": True, "deleted": False, "isGenerated": False}


def _chart(uuid: str, kind: str, section: str) -> dict[str, Any]:
    return {"uuid": uuid, "type": kind, "metricSectionId": section, "deleted": False, "isGenerated": False}


def _scatter(x: str, y: str) -> dict[str, Any]:
    axes = {axis: {"key": name, "type": "METRIC"} for axis, name in (("xaxis", x), ("yaxis", y))}
    return {**_chart(f"fedveil-{y}-{x}", "SCATTER", _FRONTIER), **axes, "runsCountToCompare": 100}


def _line(metric: str) -> dict[str, Any]:
    return {
        **_chart(f"fedveil-rounds-{metric}", "LINE", _ROUNDS), "metricKey": metric, "selectedMetricKeys": [metric],
        "xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0,
        "runsCountToCompare": 100,
    }  # fmt: skip


def tag(known: Collection[str] = NUMBERS) -> str:
    """Return the tag's value, `known` as in `state`; its date is a constant, for it must not tell when a run ended."""
    packed = base64.b64encode(zlib.compress(json.dumps(state(known)).encode())).decode()
    return json.dumps({"name": "Accuracy against budget", "createdAt": 0, "state": f"deflate;{packed}"})


def address(host: str, port: int, experiment_id: str) -> str:
    """Return where the view is shown, as charts beside the list of runs.

    >>> address("127.0.0.1", 5000, "1").partition("?")[0]
    'http://127.0.0.1:5000/#/experiments/1/runs'
    """
    query = {"workflowType": "machine_learning", "compareRunsMode": "CHART", "viewStateShareKey": KEY}
    return f"http://{host}:{port}/#/experiments/{experiment_id}/runs?{urlencode(query)}"
