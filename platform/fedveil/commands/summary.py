"""Say again what a finished run found: table, ledger, what to do next.

The end of a run in plain words, at 80 columns.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedveil import config, console, readback, runs
from fedveil.configuration import plugins
from fedveil.configuration.schema import Config
from fedveil.console import clock, percent
from fedveil.privacy import statements
from fedveil.privacy.events import LocalRelease
from fedveil.privacy.ledger import Ledger
from fedveil.privacy.statements import Statement

EXAMPLES = """example:
  fedveil summary 20260102-030405-dctdp-1f2e3d
"""

READS = ("runs",)


def _wrapped(text: str, indent: str = "  ") -> str:
    return console.wrapped(indent + text)


def headline(settings: Config, found: Sequence[Statement]) -> str:
    """Return the line above all others, with what would change it when there is no meaningful protection."""
    client = next((s for s in found if s.unit == "client" and s.epsilon is not None), None)
    line = statements.headline(found)
    if client is not None:
        line = f"client-level epsilon {client.epsilon:.4g} at delta {client.delta:g} for the released models; {line}"
    meaningful = any(s.unit == "image" and s.epsilon is not None and s.meaningful for s in found)
    if meaningful:
        return line
    if statements.NOBODY in line:  # no protection of synthetic faces changes what their generator told
        return line
    if settings.privacy.test_seed is not None:
        return f"{line}; privacy.test_seed=none draws real noise"
    if any(s.unit == "image" and s.epsilon is not None and s.epsilon <= statements.MEANINGFUL for s in found):
        return f"{line}; a smaller protection.delta gives one, and partition.max_identities says for how many"
    if settings.generator.name != "none":
        return f"{line}; privacy.image.epsilon=8, privacy.identity or privacy.client bounds what a generator learns"
    if settings.protection.name == "dctdp":
        mode = dict(settings.protection.settings).get("mode")
        change = "" if mode == "image" else "protection.mode=image "
        return f"{line}; {change}protection.total_epsilon=8 gives one, at the price of recognition close to chance"
    return f"{line}; protection=dctdp protection.total_epsilon=8 bounds it, at the price of recognition close to chance"


def collapse(settings: Config, result: Mapping[str, Any]) -> str:
    """Return what to try after a run whose model tells nobody from anybody."""
    final = result["final"]
    rates = f"EER {percent(final['eer']).strip()}, accuracy {percent(final['accuracy']).strip()}"
    if settings.generator.name != "none":
        return (
            f"Faces that this generator makes anew tell nobody from anybody ({rates}): too little was learnt, or noise "
            "drowned it. Try a longer public training (`fedveil synthesize`), lower train.lr, or fewer trained tensors "
            "(train.trainable)."
        )
    remedy = "lower train.lr and train.head_lr, more train.rounds, or train.warm_start=public"
    if settings.privacy.client is not None:
        remedy = "more clients a round, fewer trained tensors (train.trainable) or a larger privacy.client.epsilon"
    elif "total_epsilon" in settings.protection.settings:
        remedy = "a larger protection.total_epsilon, lower train.lr and train.head_lr, or more train.rounds"
    return f"This run collapsed: its model tells people apart no better than guessing ({rates}); try {remedy}."


def table(result: Mapping[str, Any], bare: Mapping[str, Any] | None, name: str) -> str:
    """Return the table of final numbers, the unprotected reference beside them."""
    final = result["final"]
    head = f"{'':<26}{name:>14}" + (f"{'no protection':>16}" if bare else "")
    rows = [head]

    def row(label: str, mine: str, other: str) -> None:
        rows.append(f"{label:<26}{mine:>14}" + (f"{other:>16}" if bare else ""))

    base = bare["final"] if bare else {}
    if name in plugins.names("generator") and name != "none":
        rows.append("of faces that the generator made anew, by its frozen recogniser")
    row("accuracy", percent(final["accuracy"]), percent(base.get("accuracy")))
    row("  sd over folds", percent(final["fold_sd"]), percent(base.get("fold_sd")))
    row("  sd over noise draws", percent(final["draw_sd"]), percent(base.get("draw_sd")))
    row("equal error rate", percent(final["eer"]), percent(base.get("eer")))
    for far, value in final["tar"].items():
        other = base.get("tar", {}).get(far)
        row(f"TAR at FAR {far}", _rate(value), _rate(other))
    if "wall_seconds" in result:  # under a client-level claim durations tell who took part
        row("seconds", f"{result['wall_seconds']:.1f}", f"{bare['wall_seconds']:.1f}" if bare else "")
    return "\n".join(rows)


def _cost(result: Mapping[str, Any], seconds: float | None) -> str:
    """Return what a run, or the whole command that waited for it, cost, where that says nothing of who took part."""
    if "wall_seconds" not in result:
        return ""
    took = clock(result["wall_seconds"]) if seconds is None else f"{clock(seconds)} by the clock"
    return f": {took}, peak memory {result['peak_memory_mb']:.0f} MB"


def _rate(value: Any) -> str:
    return percent(value) if isinstance(value, float) else "unresolved" if value else "-"


def ledger(found: Sequence[Statement]) -> str:
    """Return the ledger in plain sentences: claims, what they mean, assume and leave out."""
    lines: list[str] = []
    for statement in found:
        lines.append(_wrapped(f"- {statements.claim(statement)}"))
        lines += [_wrapped(said, "    ") for said in meant(statement)]
    return "\n".join([*lines, *map(_wrapped, bounds(found))])


def meant(statement: Statement) -> list[str]:
    """Return what a claim means for somebody who tells two inputs apart, in a sentence; none without a guarantee."""
    odds = statements.odds(statement)
    if odds is None:
        return []
    said = "always (the bound says nothing)" if odds > 0.9999 else f"at most {100 * odds:.4g} % of the time"
    return [f"Telling two such inputs apart, with false alarms 1 % of the time: right {said}."]


def bounds(found: Sequence[Statement]) -> list[str]:
    """Return what the formal ones of these claims assume and leave out, in two sentences; none where none is formal."""
    formal = [statement for statement in found if statement.epsilon is not None]
    if not formal:
        return []
    assumed = dict.fromkeys(text for statement in formal for text in statement.assumptions)
    left_out = dict.fromkeys(text for statement in formal for text in statement.not_covered)
    return [f"This assumes: {'; '.join(assumed)}.", f"It does not cover: {'; '.join(left_out)}."]


def vault(settings: Config, run_id: str) -> str:
    """Return what this run did to the vault, what a second one will do, and how to delete it."""
    root = Path(settings.vault.root)
    rows = Ledger(root / "ledger.sqlite").rows(run_id)
    spent = sum(row.status == "spent" for row in rows)
    reused = sum(row.status == "reused" for row in rows)
    noisy = [row.event for row in rows if isinstance(row.event, LocalRelease)]
    if not noisy:
        return f"vault {root}: heads and the owners' ledger; no noisy copies are kept."
    if noisy[0].releases > 1:
        return f"vault {root}: heads and the owners' ledger. Noise was fresh at every reading; a second run pays anew."
    drawn = [f"{spent} data sets drew fresh noise"] * bool(spent)
    drawn += [f"{reused} data sets reused their stored noisy copies"] * bool(reused)
    return (
        f"vault {root}: {', '.join(drawn)}. A second run with this mechanism reads the same copies and spends nothing "
        f"more; another budget or shape is a new release. `rm -r {root}` deletes it: the next run then draws again, a "
        "second release that no ledger remembers."
    )


def closing(
    settings: Config,
    result: Mapping[str, Any],
    bare: tuple[str, Mapping[str, Any]] | None,
    seconds: float | None = None,
) -> str:
    """Return everything that is printed after the last round; `seconds` is what the command has taken, None later."""
    ui = "fedveil ui" if settings.runs.root == "runs" else f"fedveil ui runs.root={settings.runs.root}"
    found = [readback.statement_of(item) for item in result["statements"]]
    test = settings.privacy.test_seed is not None
    lines = [""]
    if test:
        lines += ["NOT PRIVATE: the noise is fixed by privacy.test_seed.", ""]
    lines += [
        console.wrapped(headline(settings, found), hang=""),
        "",
        *([console.wrapped(collapse(settings, result), hang=""), ""] if result.get("collapsed") else []),
        table(result, bare[1] if bare else None, settings.method),
        "",
        "ledger",
        ledger(found),
        "",
        console.wrapped(vault(settings, str(result["run_id"])), hang=""),
        "",
        f"run {result['run_id']}{_cost(result, seconds)}",
        f"model sha256 {result['model_sha256']}",
    ]
    if bare:
        lines.append(f"unprotected reference: run {bare[0]}")
    tighter = f"  {'fedveil simulate protection.total_epsilon=8':<52} a meaningful budget"
    after = f"  {'fedveil protect faces/ protection=dctdp':<52} see what would leave"
    if settings.generator.name != "none":
        tighter = f"  {'... privacy.image.epsilon=8':<52} a meaningful budget"
        where = "" if settings.runs.root == "runs" else f" runs.root={settings.runs.root}"
        after = f"  fedveil synthesize synthesis.generator={result['run_id']}{where}"
    lines += [
        "",
        "next",
        f"  {ui:<52} runs in the MLflow UI",
        *([] if result.get("private") or settings.data.name == "synthetic" else [tighter]),
        after,
    ]
    return "\n".join(lines)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_id", metavar="RUN_ID", help="a finished run of the run store")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. runs.root=elsewhere")


def run(chosen: argparse.Namespace) -> int:
    """Print what was printed when the run ended."""
    root = Path(config.load(chosen.words).runs.root)
    kept = runs.open_run(root, chosen.run_id)
    console.tell(closing(readback.settings_of(kept), readback.result_of(kept), None))
    return 0
