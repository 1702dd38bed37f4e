"""Remove class centres and noisy copies of runs that have ended; what refuses a second answer stays."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

from fedveil import checks, console, engine
from fedveil.commands.node import keeping

_AGE = re.compile(r"([0-9]{1,5})([dw])")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("file", type=Path, metavar="NODE.TOML", help="the words of a node's configuration")
    parser.add_argument("--older-than", metavar="AGE", help="also runs that were asked last so long ago: 90d, 12w")
    parser.add_argument("--run", action="append", default=[], metavar="RUN_ID", dest="named", help="also this run")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(chosen: argparse.Namespace) -> int:
    """Say what would go, ask, and remove it."""
    vault, _ = keeping.vault_of(chosen.file)
    plan = engine.load("fedveil_clients.pruning:plan")(vault, age(chosen.older_than), chosen.named)
    lines = [f"ended: {one.run_id} ({one.why}), {len(one.files)} files of class centres" for one in plan.runs]
    lines += [f"kept: {run_id}" for run_id in plan.kept]
    lines.append(f"{len(plan.copies)} files of noisy copies that no kept run reads; the key draws them again, the same")
    lines.append(f"{plan.freed / 1e6:.3g} MB would be free; the ledger, the key and the last rounds stay")
    if plan.runs:
        lines.append("A run that has ended is refused if it is asked again.")
    console.tell("\n".join(lines))
    if chosen.dry_run or not (plan.runs or plan.copies):
        return 0
    if not chosen.yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise checks.UserError("There is no terminal to ask whether to go on; say --yes, or --dry-run.")
        if input("remove it? [y/N] ").strip().lower() not in ("y", "yes"):
            console.tell("nothing was removed")
            return 1
    freed = plan.freed
    engine.load("fedveil_clients.pruning:prune")(vault, plan)
    console.tell(f"removed; {freed / 1e6:.3g} MB are free")
    return 0


def age(said: str | None) -> datetime.timedelta | None:
    """Return an age in days or weeks.

    >>> age("90d").days, age("2w").days
    (90, 14)
    """
    if said is None:
        return None
    found = _AGE.fullmatch(said)
    if not found:
        raise checks.UserError(f"Expected --older-than={said!r} to be a number of days or weeks, such as 90d or 12w.")
    return datetime.timedelta(days=int(found[1]) * (7 if found[2] == "w" else 1))
