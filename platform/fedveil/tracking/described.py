"""What was done, in sentences: the description of a run, and of an attack on it.

A run's claims are the sentences of `privacy.statements.claim`, as the terminal and `fedveil ledger` print them.
Descriptions say settings and results; how many people, pictures or participants there were is in them only where a
setting says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedveil import readback
from fedveil.configuration import plugins
from fedveil.configuration.schema import Config
from fedveil.privacy import statements
from fedveil.tracking.overview import percent


def run(settings: Config, result: Mapping[str, Any] | None, attacks: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the description of a run, Markdown.

    Args:
        settings: of the run.
        result: result.json; None while the run goes on.
        attacks: findings of attacks on it.
    """
    parts = [_recipe(settings)]
    if result is None:
        return "\n\n".join([*parts, "The run has not ended yet."])
    parts.append(_accuracy(result))
    found = [readback.statement_of(claim) for claim in result["statements"]]
    if settings.privacy.test_seed is not None:
        parts.append("NOT PRIVATE: the noise is fixed by `privacy.test_seed`.")
    parts.append(f"**In short:** {statements.headline(found)}.")
    parts.append("\n".join(["**What it may claim:**", "", *(f"- {statements.claim(one)}" for one in found)]))
    if attacks:
        verdicts = [f"- {one['attack']} ({one['level']}): {one['verdict']}" for one in attacks]
        parts.append("\n".join(["**Attacks that were run on it:**", "", *verdicts]))
    return "\n\n".join(parts)


def _recipe(settings: Config) -> str:
    train, privacy = settings.train, settings.privacy
    people = dict(settings.data.settings)
    drawn = {key: people.get(key) for key in ("identities", "images_per_identity")}
    size = f" ({drawn['identities']} people with {drawn['images_per_identity']} pictures each)"
    data = f"`{settings.data.name}`{size if None not in drawn.values() else ''}"
    joined = f"every client joins with probability {train.cohort.rate:g}"
    if train.cohort.kind == "fixed":
        joined = f"{train.cohort.size} clients join"
    local = f"{train.local.steps} steps" if train.local.steps else f"{train.local.epochs} passes over its faces"
    lines = [
        f"{train.clients} clients train `{settings.model.name}` on faces of {data}, protected by "
        f"`{settings.protection.name}`: {_lower(plugins.summary('protection', settings.protection.name))}",
    ]
    if settings.generator.name != "none":
        lines = [
            f"{train.clients} clients train the generator `{settings.generator.name}` on faces of {data}. Accuracy is "
            "that of its frozen recogniser on faces that the generator made anew.",
        ]
    lines += [
        f"In each of {train.rounds} rounds {joined} and takes {local} of batches of {train.batch_size}; the "
        f"coordinator sums the updates (`{settings.aggregation.name}`).",
    ]
    for unit, budget in (("client", privacy.client), ("image", privacy.image), ("identity", privacy.identity)):
        if budget is not None and budget.noise_multiplier is not None:
            noisy = "The coordinator clips and noises the sum of updates" if unit == "client" else (
                "Every client clips and noises its own steps")  # fmt: skip
            lines.append(f"{noisy} (`privacy.{unit}`, noise multiplier {budget.noise_multiplier:.4g}).")
    return " ".join(lines)


def _lower(sentence: str) -> str:
    first, _, rest = sentence.partition(" ")
    return f"{first.lower() if first.istitle() else first} {rest}"


def _accuracy(result: Mapping[str, Any]) -> str:
    final = result["final"]
    spreads = [
        f"± {percent(final[key])} over {what}"
        for key, what in (("fold_sd", "folds"), ("draw_sd", "noise draws"))
        if final[key] is not None
    ]
    if final.get("interval"):
        low, high = final["interval"]
        spreads.append(f"95 % interval over people {percent(low)} to {percent(high)}")
    said = f"**Final accuracy {percent(final['accuracy'])}** on public pairs of people who did not train"
    said += f" ({', '.join(spreads)})" if spreads else ""
    if final["eer"] is not None:
        said += f"; equal error rate {percent(final['eer'])}"
    collapsed = " The model tells people apart no better than guessing." if result.get("collapsed") else ""
    return f"{said}.{collapsed}"


def attack(finding: Mapping[str, Any]) -> str:
    """Return the description of an attack: what the attacker has and does, the verdict, every measure, Markdown."""
    parts = [str(finding["what"]), f"**{finding['verdict']}**"]
    measures = [_measure(one) for one in finding["measures"] if one["value"] is not None]
    if measures:
        parts.append("\n".join(measures))
    return "\n\n".join([*parts, *map(str, finding.get("notes", ()))])


_BESIDE = {"floor": "without any information", "ceiling": "of clean pictures", "mean_face": "of the mean face"}


def _measure(one: Mapping[str, Any]) -> str:
    unit = str(one.get("unit", ""))
    beside = []
    if one.get("low") is not None and one.get("high") is not None:
        beside.append(f"95 % interval {_number(one['low'], unit)} to {_number(one['high'], unit)}")
    for key, name in _BESIDE.items():
        if one.get(key) is not None:
            beside.append(f"{_number(one[key], unit)} {name}")
    said = f": {one['said']}" if one.get("said") else ""
    return f"- `{one['name']}` {_number(one['value'], unit)}{f' ({chr(59).join(beside)})' if beside else ''}{said}"


def _number(value: float, unit: str) -> str:
    return percent(value) if unit == "share" else f"{value:.3g}{' ' if unit else ''}{unit}"
