"""What MLflow is told of a set of synthetic faces: a run of its own kind, with its sheets and its judgement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fedveil
from fedveil import config, tracking
from fedveil.configuration.schema import Config
from fedveil.runs import Run
from fedveil.tracking import overview, stores, view

_FILES = ("sheet.png", "nearest.png", "result.json")


def tell(settings: Config, made: Run, result: Mapping[str, Any]) -> None:
    """Tell the store that the settings name of a finished set; a store that fails costs a warning.

    Args:
        settings: of the set; its run store is where MLflow's database is.
        made: the set's folder.
        result: its result.json.
    """
    tracker = tracking.open_tracker(settings.tracking, Path(settings.runs.root))
    group = f"id3 faces of {settings.data.name}, guidance {result['settings']['guidance']:g}"
    name = f"{group} seed {settings.seed}"
    tracker.start(
        tracking.RunInfo(
            run_id=made.run_id,
            experiment=stores.EXPERIMENT,
            run_name=name,
            params={**config.flat(settings), **{f"synthesis.{k}": _plain(v) for k, v in result["settings"].items()}},
            tags={
                view.KIND: "synthetic set",
                view.GROUP: group,
                view.ORDER: name,
                "fedveil.mode": str(result["mode"]),
                "fedveil.generator": str(result["generator_sha256"]),
                "fedveil.version": fedveil.__version__,
                overview.NOTE: described(result),
            },
        )
    )
    tracker.log_round(0, numbers(result))
    for file in _FILES:
        if (made.folder / file).is_file():
            tracker.log_artifact(made.folder / file)
    tracker.finish()


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a set that a table of runs has room for; result.json, an artefact, has all.

    `one_person` and `two_people` are mean cosines by the judge, of a person's pictures and of people's centres;
    `set_eer` is the equal error rate by the judge, `set_eer_circular` by the generator's own recogniser; `members_auc`
    and `nearest_is_member` are 0.5 where the set shows nothing of whom its generator learnt.
    """
    counts, judged = result["counts"], result["judged"]
    missing = sum(counts[name] for name in ("dropped_identity", "dropped_nearest", "dropped_duplicate", "dropped_few"))
    found = {
        "people": result["people"],
        "images": result["images"],
        "dropped": missing / max(1, counts["asked"]),
        **{f"seconds_{what}": spent for what, spent in result["seconds"].items()},
    }
    if "omitted" not in judged:
        own = judged["sets"]["synthetic"]
        found |= {
            "one_person": own["by_judge"]["consistency"]["pair_cosine"]["value"],
            "two_people": own["by_judge"]["between"]["mean_cosine"]["value"],
            "set_eer": own["by_judge"]["consistency"]["eer"],
            "set_eer_circular": own["by_generator"]["consistency"]["eer"],
            "members_auc": judged["leakage"]["membership"]["value"],
            "nearest_is_member": judged["leakage"]["nearest_is_member"]["value"],
        }
    return {name: float(value) for name, value in found.items()}


def described(result: Mapping[str, Any]) -> str:
    """Return what was done in sentences, Markdown."""
    claim = {
        "public": "No private face was touched; the public people whom the generator learnt from have no guarantee.",
        "federated": "The statements of the generator's run hold for everything that is computed from these faces.",
        "shared": "The generator learnt from private people without a guarantee: epsilon is infinite.",
    }[str(result["mode"])]
    return (
        f"{result['images']:,} synthetic faces of {result['people']} people at {result['size']} pixels, from a "
        f"generator that learnt from {result['learnt_from']}. {claim} Sheets and the judgement are artefacts."
    )


def _plain(value: Any) -> str | int | float | bool | None:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
