"""What was asked of a set, kept in its folder; and what a finished set is worth, at 80 columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from fedveil import config, readback, runs
from fedveil.commands.synthesize import chosen
from fedveil.configuration.schema import Config
from fedveil.console import clock, percent, wrapped
from fedveil.runs import Run
from fedveil.synthesis.making import Wanted

_REMEDY = "Make the set anew."
_CLAIMS = {
    "public": (
        "No private face was touched. The people whom the generator learnt from, {learnt_from}, have no guarantee: "
        "epsilon is infinite for them, and the search below is all that is known."
    ),
    "federated": "The generator learnt from {learnt_from}; what is claimed there holds for everything made of it:",
    "shared": (
        "NO GUARANTEE: the generator learnt from {learnt_from}. Epsilon is infinite for these faces, and for whatever "
        "is computed from them."
    ),
}
_ROWS = (
    ("one person: mean cosine", ("consistency", "pair_cosine", "value")),
    ("one person: accepted at FAR 0.01", ("consistency", "tar", "0.01", "value")),
    ("one person: accepted at FAR 0.001", ("consistency", "tar", "0.001", "value")),
    ("one person: spread of embeddings", ("within", "embedding_sd", "value")),
    ("two people: mean cosine of centres", ("between", "mean_cosine", "value")),
    ("two people: largest cosine", ("between", "largest_cosine", "value")),
    ("equal error rate", ("consistency", "eer")),
)


def write(made: Run, settings: Config, wanted: Wanted, name: str) -> None:
    """Write what is asked of a new set."""
    runs.write_json(made.folder / name, chosen.plain(wanted))
    runs.write_json(made.config, config.to_tree(settings))


def asked(made: Run, own: Config, name: str) -> tuple[Config, Wanted]:
    """Return what was asked of a set that goes on; where it runs and is tracked is said anew.

    Raises:
        fedveil.checks.UserError: a damaged folder.
    """
    kept = readback.settings_of(made)
    wanted = chosen.wanted(runs.read_json(made.folder / name, "settings of a synthetic set", {}, _REMEDY))
    return dataclasses.replace(kept, runs=own.runs, tracking=own.tracking, device=own.device), wanted


def text(made: Run, result: Mapping[str, Any]) -> str:
    """Return everything that is printed of a finished set."""
    lines = ["", wrapped(_CLAIMS[str(result["mode"])].format(**result), hang="")]
    lines += [wrapped(f"  - {_claim(one)}", hang="    ") for one in result["statements"]]
    lines += ["", *_counts(result["counts"]), ""]
    judged = result["judged"]
    lines += [wrapped(f"not judged: {judged['omitted']}")] if "omitted" in judged else [*_judged(judged)]
    seconds = result["seconds"]
    took = ", ".join(f"{what} {clock(seconds[what])}" for what in ("training", "sampling", "judgement"))
    store = made.root.parent
    where = "" if str(store) == "runs" else f" runs.root={store}"
    return "\n".join(
        [
            *lines, "", f"{took}; on {result['device']}", f"generator sha256 {result['generator_sha256']}", "", "next",
            f"  fedveil simulate data=synthetic data.path={made.folder / 'faces.npz'} protection=none{where}",
            f"  fedveil simulate train.warm_start=synthetic train.synthetic={made.folder / 'faces.npz'}{where}",
            f"  look at {made.folder / 'sheet.png'}",
        ]
    )  # fmt: skip


def _claim(statement: Mapping[str, Any]) -> str:
    if statement["epsilon"] is None:
        return f"{statement['unit']}: no guarantee ({statement['mechanism']})"
    return (
        f"{statement['unit']}: epsilon = {statement['epsilon']:.6g} at delta = {statement['delta']:g} "
        f"({statement['relation']}), against {statement['view']}"
    )


def _counts(counts: Mapping[str, int]) -> Iterator[str]:
    dropped = {name.removeprefix("dropped_"): value for name, value in counts.items() if name.startswith("dropped_")}
    missing = sum(value for name, value in dropped.items() if name != "people")
    share = percent(missing / max(1, counts["asked"])).strip()
    yield wrapped(
        f"{counts['asked']:,} faces asked, {missing:,} ({share}) dropped after every attempt: not the person "
        f"{dropped['identity']:,}, nearer to another {dropped['nearest']:,}, a duplicate {dropped['duplicate']:,}, of "
        f"people with fewer than two {dropped['few']:,}. {counts['drawn']:,} draws in all."
    )


def _judged(judged: Mapping[str, Any]) -> Iterator[str]:
    judge, sets = judged["judge"], judged["sets"]
    names = [name for name in ("synthetic", "learnt", "strangers") if name in sets]
    yield f"judged by a network that the generator never saw ({judge.get('file', judge.get('kind', 'own'))})"
    yield f"{'':<38}" + "".join(f"{name:>13}" for name in names)
    for label, path in _ROWS:
        values = [_at(sets[name]["by_judge"], path) for name in names]
        yield f"{label:<38}" + "".join(f"{'-' if value is None else format(value, '.3f'):>13}" for value in values)
    asked = _at(sets["synthetic"]["by_generator"], ("consistency", "pair_cosine", "value"))
    if asked is not None:
        yield wrapped(f"  By the generator's own recogniser one person's mean cosine is {asked:.3f}: circular.")
    leak = judged["leakage"]
    yield ""
    yield wrapped(leak["verdict"])
    if "members" in judged:
        yield wrapped(f"  This holds of {judged['members']}: of others the search says nothing.")
    area, share = leak["membership"], leak["nearest_is_member"]
    yield wrapped(
        f"  Of a member and a stranger the member is the nearer one {percent(area['value']).strip()} of the time (50 % "
        f"without leakage); of synthetic faces {percent(share['value']).strip()} are nearest to a member."
    )


def _at(tree: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return float(tree) if isinstance(tree, int | float) else None
