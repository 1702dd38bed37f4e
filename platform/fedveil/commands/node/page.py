"""Show an owner what its node was asked, what it accepted and refused, what is spent, and what is left."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedveil import checks, console, engine
from fedveil.commands import report as sweeps
from fedveil.commands import summary
from fedveil.commands.ledger import report as ledgers
from fedveil.configuration.schema import Policy
from fedveil.privacy import statements, totals
from fedveil.privacy.ledger import Ledger, deal_of
from fedveil.storage import addresses, disk

_LIMITS = {
    "max-total-epsilon": "one image over all runs", "max-client-epsilon": "the whole data set over all schedules"
}  # fmt: skip
_HERE = Path(__file__).parent


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("file", type=Path, metavar="NODE.TOML", help="the words of a node's configuration")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also as one page that opens without a network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also as JSON")


def run(chosen: argparse.Namespace) -> int:
    """Print the page, and write it where that was asked for."""
    found = gather(chosen.file)
    if chosen.json is not None:
        disk.write_json(chosen.json, found, private=True)
    if chosen.html is not None:
        disk.write_atomic(chosen.html, html(found).encode(), private=True)
    console.tell(text(found))
    for path in (chosen.json, chosen.html):
        if path is not None:
            console.tell(f"wrote {path}; it is for this owner: it tells what the ledger holds")
    return 0


def gather(file: Path) -> dict[str, Any]:
    """Return everything that the page shows, in plain JSON types; nothing is written.

    Raises:
        fedveil.checks.UserError: a file of words that cannot be read, or that names no vault.
    """
    words = engine.load("fedveil_clients.node:read")(file)
    found: dict[str, Any] = engine.load("fedveil_clients.overview:gather")(file, words)
    rule = engine.load("fedveil_clients.overview:policy_of")(words)
    found["limits"] = _limits(rule)
    found["accounts"] = []
    try:
        found["accounts"] = accounts(Ledger(Path(found["vault"]["root"]) / "ledger.sqlite"), rule)
    except checks.UserError as error:
        found["warnings"].insert(0, f"nothing can be said of what is spent: {error}")
    return found


def _limits(rule: Policy) -> list[str]:
    """Return the limits in words, as `fedveil node check` says them."""
    said: list[str] = engine.load("fedveil_clients.check:limits")(rule)
    return said


def accounts(ledger: Ledger, rule: Policy) -> list[dict[str, Any]]:
    """Return what each data set has spent over all runs, and what its limits leave of it.

    Raises:
        fedveil.checks.UserError: a damaged ledger.
    """
    if not ledger.path.exists():
        return []
    ledger.heads()
    contents = ledger.contents()
    names = {row.subject for row in ledger.rows()} | {*contents}
    names = {deal_of(name)[0] for name in names}  # a simulation's shares are one source
    used = engine.load("fedveil_clients.policy:used")
    found = []
    for name in sorted(names):
        history, _ = ledgers.past_of(ledger, name, rule)
        said = totals.of_history(history, totals.Deltas(rule.image_delta, rule.client_delta))
        found.append({
            "data_set": name,
            "pictures": len(set().union(*(held for one, held in contents.items() if name in (one, deal_of(one)[0])))),
            "statements": [one.to_dict() for one in said],
            "claims": [statements.claim(one) for one in said],
            "meant": [*(line for one in said for line in summary.meant(one)), *summary.bounds(said)],
            "limits": [_left(limit, *numbers) for limit, numbers in used(rule, history).items()],
        })  # fmt: skip
    return found


def _left(limit: str, largest: float, delta: float, spent: float) -> dict[str, Any]:
    finite = math.isfinite(spent)
    said = f"{spent:.6g} of {largest:g} is used, {max(0.0, largest - spent):.6g} is left"
    if not finite:
        said = "no finite amount is used, so nothing is left and every run is refused"
    unit = "image" if limit == "max-total-epsilon" else "client"
    return {
        "limit": limit, "unit": unit, "epsilon": largest, "delta": delta, "spent": spent if finite else None,
        "left": max(0.0, largest - spent) if finite else 0.0,
        "said": f"{limit} = {largest:g} at delta {delta:g} ({_LIMITS[limit]}): {said}",
    }  # fmt: skip


def vault_said(found: Mapping[str, Any]) -> list[str]:
    """Return the vault's state, a sentence each."""
    kept = found["vault"]
    if not kept["exists"]:
        return [f"{kept['root']} is not there; the node makes it when it first takes part"]
    if "mode" not in kept:
        return [str(kept["root"])]
    done = kept["backup"]
    return [
        f"{kept['root']}, mode {kept['mode']}, {'with' if kept['key'] else 'without'} a key"
        + (f", identity {kept['identity']}" if kept["identity"] else ""),
        f"{kept.get('answers', 0)} answers have left; witness {kept['witness'] or 'none'}",
        f"ledger {_bytes(kept['ledger_bytes'])}, copies {_bytes(kept['copies_bytes'])}, class centres and rounds "
        f"{_bytes(kept['heads_bytes'])}",
        f"last backup {done['at']}, after answer {done['number']}, {done['file']}" if done else "no backup",
    ]


def run_said(run: Mapping[str, Any]) -> str:
    """Return what is known of one run beside its id and its state."""
    parts = [run["method"]] if run["method"] else []
    if run["rounds_scheduled"]:
        parts.append(f"asked in {run['rounds_asked']} of {run['rounds_scheduled']} rounds")
    if run["first"]:
        parts.append(run["first"] if run["first"] == run["last"] else f"{run['first']} to {run['last']}")
    parts += [f"configuration {run['configuration'][:12]}"] if run["configuration"] else []
    return ", ".join(parts)


def left_out(found: Mapping[str, Any]) -> list[str]:
    """Return a sentence about the runs that are not listed; none where all are."""
    many = found["runs_left_out"]
    return [f"{many} more that were never accepted are older, and not listed"] * bool(many)


def text(found: Mapping[str, Any]) -> str:
    """Return the page as text for 80 columns."""
    lines = [f"owner's page of client {found['client'] or '(not said)'}"]
    lines += ["", "warnings"] * bool(found["warnings"]) + [f"  ! {one}" for one in found["warnings"]]
    floor = found["floor"]
    lines += ["", "words in force"]
    lines += [f"  floor: {', '.join(floor) if floor is not None else 'none, every protection is accepted'}"]
    lines += [f"  {one}" for one in found["limits"] if not one.startswith("methods:")] or ["  no limits"]
    lines += ["", f"runs that were asked: {len(found['runs']) + found['runs_left_out'] or 'none'}"]
    lines += [f"  {said}" for said in left_out(found)]
    for one in found["runs"]:
        lines += [f"  {one['run_id']}: {one['state']}"]
        lines += [f"    {run_said(one)}"] if run_said(one) else []
        lines += [f"    refused {line['at']}: {line['reason']}" for line in one["refusals"]]
    if found["unnamed_refusals"]:
        lines += ["", "refused, of a run that is not known"]
        lines += [f"  {line['at']}: {line['reason']}" for line in found["unnamed_refusals"]]
    lines += ["", "spent, and what is left"] + ["  nothing is spent"] * (not found["accounts"])
    for account in found["accounts"]:
        lines += [f"  data set {account['data_set']}, {account['pictures']} pictures"]
        lines += [f"    - {one}" for one in account["claims"]]
        lines += [f"    {one}" for one in account["meant"]]
        lines += [f"    {one['said']}" for one in account["limits"]]
        lines += ["    no limit over runs"] * (not account["limits"])
    return "\n".join([*lines, "", "vault", *(f"  {one}" for one in vault_said(found))])


def html(found: Mapping[str, Any]) -> str:
    """Return the page as one HTML file that loads nothing: whatever a coordinator named is text in it."""
    import jinja2
    from markupsafe import Markup

    style = (Path(sweeps.__file__).parent / "page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((_HERE / "page.html").read_text(encoding="utf-8"))
    refused = sum(run["state"] == "refused" for run in found["runs"])
    return template.render(
        {
            **found,
            "css": Markup(style),
            "policy": "default-src 'none'; style-src 'unsafe-inline'",
            "vault_said": vault_said(found),
            "left_out": left_out(found),
            "refused": refused,
            "clean": lambda shown: console.harmless(addresses.redacted(str(shown))),
        }
    )


def _bytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1e3:.3g} kB"
