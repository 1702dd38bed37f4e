"""What an experiment says of all its runs: its shared view, and its description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedveil.tracking import overview, view

KIND = "mlflow.experimentKind"
TRAINING = "custom_model_development"
"""The pages for training, not those for chatting."""
_MOST = 1000  # runs that the description counts: MLflow's page of a search


def renew(client: Any, experiment_id: str, told: bool) -> None:
    """Write the view and the description where they differ from what is there; no time is written with them.

    Args:
        client: MLflow's client of the store.
        experiment_id: an experiment that fedveil's runs are in.
        told: say also what every run found, which means reading them all.
    """
    tags = client.get_experiment(experiment_id).tags
    known = [name for name in view.NUMBERS if _any(client, experiment_id, name)]
    wanted = {view.TAG: view.tag(known)}
    if KIND not in tags:
        wanted[KIND] = TRAINING
    ours = tags.get(overview.NOTE, overview.EXPERIMENT).startswith(overview.EXPERIMENT)
    if ours and (told or overview.NOTE not in tags):
        wanted[overview.NOTE] = overview.experiment(_rows(client, experiment_id))[:20_000]  # MLflow's limit
    for key, value in wanted.items():
        if tags.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)


def _any(client: Any, experiment_id: str, metric: str) -> bool:
    return bool(client.search_runs([experiment_id], f"metrics.`{metric}` >= 0", max_results=1))


def _rows(client: Any, experiment_id: str) -> Iterator[tuple[str, float, str]]:
    for run in client.search_runs([experiment_id], f"tags.`{view.KIND}` = 'run'", max_results=_MOST):
        tags, accuracy = run.data.tags, run.data.metrics.get("accuracy")
        if run.info.status == "FINISHED" and accuracy is not None and view.GROUP in tags:
            claimed = (tags.get(name, "") for name in view.NUMBERS)
            yield tags[view.GROUP], accuracy, " ".join(text for text in claimed if text)
