"""What stands on the page, as plain text for the template: numbers come from `rows`, sentences from `words`."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import fedveil
from fedveil import config, console
from fedveil.attacks.base import LEAKS, LEVELS
from fedveil.commands._groups import UNITS
from fedveil.commands.report import page, reproduce, words
from fedveil.commands.report.gathered import Gathered, Seen, attacked
from fedveil.commands.report.rows import Row, methods
from fedveil.configuration.files import shown
from fedveil.configuration.words import METHOD_GROUPS
from fedveil.pictures.tradeoff import Panel
from fedveil.privacy.statements import MEANINGFUL

Tree = dict[str, Any]

_WHERE = ("engine.", "tracking.", "runs.", "vault.")
_PICTURES = {
    "faces.png": "Drawn faces, what left, and what the inverse transform gives back",
    "budget_shape.png": "Shape of the budget over the frequencies, learnt on public faces",
    "rounds.png": "Accuracy and epsilon over the rounds",
    "roc.png": "True accept rate against false accept rate of the final model",
}
_ROOM = 12 * 2**20
"""Bytes of pictures that a page takes; what is beyond is in the runs' folders."""


def content(gathered: Gathered, found: Sequence[Row], drawn: Sequence[Panel], static: str | None) -> Tree:
    """Return what page.html names."""
    views = _views(found)
    pictures, unshown = _pictures(gathered, found)
    differing, common = _settings(gathered)
    open_ = [seen for seen in gathered.runs if seen.result is None]
    problems = [*gathered.left_out]
    if open_:
        many = "is not finished and" if len(open_) == 1 else "are not finished and"
        problems.append(f"{len(open_)} of {len(gathered.runs)} runs {many} not in the numbers below.")
    return {
        "target": gathered.target,
        "headline": words.headline(found),
        "problems": problems,
        "meaningful": f"{MEANINGFUL:g}",
        "methods": [{"name": name, "place": place} for name, place in methods(found).items()],
        "several_seeds": any(len(row.runs) > 1 for row in found),
        "panels": [_panel(panel) for panel in drawn],
        "static": static,
        "static_alt": "; ".join(_panel(panel)["alt"] for panel in drawn),
        "unplotted": _unplotted(found, drawn),
        "leak_names": [_NAMES[name] for name in LEAKS],
        "table": [_row(row, views) for row in found],
        "views": [(letter, view) for view, letter in views.items()],
        "attacks": [_attacks(row, gathered.hides_times) for row in found if row.attacks],
        "levels": "; ".join(f"{name}, {has}" for name, has in LEVELS.items()),
        "missing": reproduce.missing(gathered),
        "ledgers": [_ledger(row) for row in found],
        "pictures": pictures,
        "differing": differing,
        "common": common,
        "times": not gathered.hides_times,
        "runs": [_run(seen, differing, gathered.hides_times) for seen in gathered.runs],
        "runs_said": f"{len(gathered.finished)} of {len(gathered.runs)} runs have finished.",
        "commands": reproduce.commands(gathered),
        "footer": [*unshown, *_footer(gathered)],
    }  # fmt: skip


_NAMES = {"linked": "Linked", "rank1": "Rank 1", "replayed": "Replayed", "ssim": "SSIM"}


def _views(found: Sequence[Row]) -> dict[str, str]:
    """Return what adversaries see, each under a letter."""
    seen = dict.fromkeys(one["view"] for row in found for one in row.statements.values())
    return {view: chr(ord("A") + number) for number, view in enumerate(seen)}


def _row(row: Row, views: Mapping[str, str]) -> Tree:
    return {
        "place": row.place, "method": row.method, "budget": row.budget, "accuracy": words.accuracy(row),
        "seeds": len(row.runs), "collapsed": row.collapsed,
        "claims": [_claim(row.statements[unit], views) for unit in UNITS if unit in row.statements],
        "leaks": [_leak(row, name) for name in LEAKS], "attacks": ", ".join(row.attacks),
        "not_run": ", ".join(row.not_run), "verdict": words.verdict(row),
    }  # fmt: skip


def _claim(one: Mapping[str, Any], views: Mapping[str, str]) -> Tree:
    formal = f"{one['relation']}, δ {one['delta']:g}, " if one["epsilon"] is not None else ""
    said = f"{one['unit']}: {words.epsilon(one)}"
    return {"said": said, "rest": f"{formal}who sees {views[one['view']]}"}


def _leak(row: Row, name: str) -> Tree:
    leak = row.leaks[name]
    if leak is None:
        return {"value": "", "lacking": row.lacking(name)}
    value = words.number(leak.value, leak.measure["unit"])
    return {"value": value, "interval": words.interval(leak.measure), "baselines": words.ends(leak.measure),
            "attack": leak.finding["attack"]}  # fmt: skip


def _attacks(row: Row, hidden: bool) -> Tree:
    findings = [_attack(seen, finding, hidden) for seen, finding in attacked(row.runs)]
    return {"place": row.place, "name": row.name, "said": ", ".join(row.attacks), "findings": findings}


def _attack(seen: Seen, finding: Mapping[str, Any], hidden: bool) -> Tree:
    judged = ", ".join(f"{key} {shown(value)}" for key, value in finding["judge"].items())
    groups = (f"{name}: {one['people']} people, {one['images']} images" for name, one in finding["people"].items())
    cost = f"{console.clock(finding['seconds'])}, peak memory {finding['peak_memory_mb']:.0f} MB"
    if finding["seconds_per_image"] is not None:
        cost += f", {1000 * finding['seconds_per_image']:.3g} ms an image"
    return {
        "run_id": seen.run.run_id,
        **{key: finding[key] for key in ("attack", "level", "what", "file", "notes", "verdict")},
        "people": "; ".join(groups) or "none", "judge": judged or "none", "cost": "" if hidden else cost,
        "settings": ", ".join(f"{key}={shown(value)}" for key, value in finding["settings"].items()) or "none",
        "measures": [
            {"name": one["name"], "said": one["said"], "interval": words.interval(one),
             "value": words.number(one["value"], one["unit"]),
             **{key: "" if one[key] is None else words.number(one[key], one["unit"])
                for key in ("floor", "mean_face", "ceiling")}}
            for one in finding["measures"]
        ],
    }  # fmt: skip


def _panel(panel: Panel) -> Tree:
    spots = [f"{s.method} {'no guarantee' if s.x is None else format(s.x, '.3g')}: accuracy {words.percent(s.y)}"
             for s in panel.spots]  # fmt: skip
    bars = "Mean accuracy; bars are one standard deviation over seeds."
    if not panel.budget:
        bars += " Horizontal bars are 95 % intervals over the victims."
    alt = f"Accuracy against: {panel.title}. {'; '.join(spots)}."
    return {"key": panel.key, "title": panel.title, "caption": bars, "alt": alt}


def _unplotted(found: Sequence[Row], drawn: Sequence[Panel]) -> list[str]:
    lacking = [row.name for row in found if not row.attacks]
    if not lacking:
        return []
    if len(lacking) == len(found):
        return ["There is no plot against what attacks recover: none was run on these runs."]
    return [f"Not attacked, hence not in the plots of attacks: {'; '.join(lacking)}."]


def _ledger(row: Row) -> Tree:
    """Return a setting's sentences; runs that say the same share them."""
    parts: dict[tuple[str, ...], list[Tree]] = {}
    for seen in row.runs:
        run = {"run_id": seen.run.run_id, "head": seen.head, "problem": "" if seen.head else seen.reason}
        parts.setdefault(tuple(words.ledger(seen)), []).append(run)
    listed = [{"sentences": sentences, "runs": runs} for sentences, runs in parts.items()]
    return {"place": row.place, "name": row.name, "parts": listed}


def _pictures(gathered: Gathered, found: Sequence[Row]) -> tuple[list[Tree], list[str]]:
    """Return the pictures of one run of each setting, the most attacked, and a sentence where some do not fit."""
    listed, size, left = [], 0, 0
    for row in found:
        seen = max(row.runs, key=lambda one: len(one.findings))
        wanted = {name: alt for name, alt in _PICTURES.items() if gathered.words is None or name == "budget_shape.png"}
        wanted |= {f"attacks/{one['file']}.png": f"{one['attack']}: what it recovered from {row.name}"
                   for one in seen.findings}  # fmt: skip
        pictures = []
        for name, alt in wanted.items():
            if (source := page.data_uri(seen.run.folder / name)) is None:
                continue
            size += len(source)
            if size > _ROOM:
                left += 1
                continue
            pictures.append({"source": source, "alt": alt})
        if pictures:
            listed.append({"place": row.place, "name": row.name, "run_id": seen.run.run_id, "pictures": pictures})
    return listed, [f"{left} more pictures are in the runs' folders: the page would be too large."] * bool(left)


def _settings(gathered: Gathered) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Return the settings in which runs differ, and (setting, value, whose) of all others.

    Where a run computes and is kept is no part of it. Where runs have several methods of a group, a method's settings
    are compared among the runs that have it, and are its own.
    """
    every = [config.flat(seen.settings) for seen in gathered.runs if seen.settings is not None]
    several = {group for group in METHOD_GROUPS if len({one[f"{group}.name"] for one in every}) > 1}
    values: dict[tuple[str, str], set[str]] = {}
    for one in every:
        for key, value in one.items():
            group = key.partition(".")[0]
            whose = str(one[f"{group}.name"]) if group in several and key != f"{group}.name" else ""
            if not key.startswith(_WHERE):
                values.setdefault((key, whose), set()).add(shown(value))
    differing = list(dict.fromkeys(key for (key, _), found in values.items() if len(found) > 1))
    return differing, [(key, min(found), whose) for (key, whose), found in values.items() if len(found) == 1]


def _run(seen: Seen, differing: Sequence[str], hidden: bool) -> Tree:
    flat = config.flat(seen.settings) if seen.settings is not None else {}
    final = seen.result["final"] if seen.result is not None else {}
    seconds = seen.result.get("wall_seconds") if seen.result is not None and not hidden else None
    return {
        "run_id": seen.run.run_id, "state": seen.state, "reason": seen.reason,
        "differing": [shown(flat[key]) if key in flat else "–" for key in differing],
        "accuracy": words.percent(final.get("accuracy")), "eer": words.percent(final.get("eer")),
        "time": "–" if seconds is None else console.clock(seconds),
    }  # fmt: skip


def _footer(gathered: Gathered) -> list[str]:
    results = [seen.result for seen in gathered.finished if seen.result is not None]
    devices = sorted({str(result.get("device", "unknown")) for result in results})
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return [
        f"The runs computed on: {', '.join(devices)}.",
        f"Page made by fedveil {fedveil.__version__} on {machine}. It holds everything it shows and loads nothing.",
    ]
