"""What an owner's node has been asked, has answered and keeps, gathered from its words and its vault; nothing leaves.

Nothing is written either, so a node may run meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedveil import checks
from fedveil.configuration.schema import Policy
from fedveil.storage import disk
from fedveil_clients import asked, node, refusals, vault_folder, witness
from fedveil_clients.node import Node
from fedveil_clients.steps import steps_of
from fedveil_clients.vault import Vault

_SHOWN = 50  # refusals whose run is not known, or that are all of a run
_STRANGERS = 200  # runs that were never accepted: who asks under ever new names does not bury the others
_BACKUP = {"at": str, "number": int, "file": str}


def gather(file: Path, words: Mapping[str, Any]) -> dict[str, Any]:
    """Return what there is to say but for the totals: words, runs, refusals without a run, vault, warnings.

    Args:
        file: of the words; the log of a node without a vault is beside it.
        words: what `node.read` returns.

    Raises:
        fedveil.checks.UserError: the words name no vault.
    """
    own = node.node_of("", words, "")
    vault = Vault(own.vault())
    kept = _vault(vault, own)
    by_run, unnamed = _refusals(file, words)
    listed, left_out = _shortened(_runs(vault, by_run))
    return {
        "client": str(words.get("client-id", "")), "words": {word: words[word] for word in node.WORDS if word in words},
        "floor": None if own.policy is None or own.policy.floor is None else list(own.policy.floor),
        "runs": listed, "runs_left_out": left_out, "unnamed_refusals": unnamed, "vault": kept,
        "warnings": _warnings(own, kept),
    }  # fmt: skip


def policy_of(words: Mapping[str, Any]) -> Policy:
    """Return the owner's limits; none where the node leaves them to the coordinator."""
    return node.node_of("", words, "").policy or Policy(None, None)


def _refusals(file: Path, words: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, str]]], list[dict[str, str]]]:
    """Return the log's lines by run, and those of no run; what lies beside the file of words was there first."""
    by_run: dict[str, list[dict[str, str]]] = {}
    for path in reversed(refusals.places(words, {node.FILE: str(file)})):
        for at, run_id, reason in refusals.read(path):
            by_run.setdefault(run_id, []).append({"at": at, "reason": reason})
    for listed in by_run.values():
        listed.sort(key=lambda line: line["at"])
        del listed[:-_SHOWN]
    return by_run, by_run.pop("", [])


def _runs(vault: Vault, by_run: Mapping[str, list[dict[str, str]]]) -> list[dict[str, Any]]:
    """Return every run that this owner was asked to take part in, whatever remembers it."""
    known = {one.run_id: one for one in asked.runs_of(vault)}
    booked: set[str] = set()
    with contextlib.suppress(checks.UserError):  # a damaged ledger is the vault's problem, and said there
        booked = {row.run_id for row in vault.ledger.rows() if not row.run_id.startswith("(")}
    found = []
    for run_id in {*known, *by_run, *booked}:
        one, lines = known.get(run_id, asked.Asked(run_id)), by_run.get(run_id, [])
        times = [at for at in (one.first, one.last, *(line["at"] for line in lines)) if at]
        accepted = one.accepted or run_id in booked
        state = "accepted" if accepted else "refused" if lines or one.refusals else "asked"
        if accepted and (vault.root / vault_folder.ACCEPTED / run_id / "ended").exists():
            state = "ended"
        found.append({
            "run_id": run_id, "client": one.client, "first": min(times, default=""), "last": max(times, default=""),
            "configuration": one.configuration, "method": one.method,
            "rounds_asked": one.rounds, "rounds_scheduled": one.scheduled, "state": state,
            "refusals": lines or ([{"at": one.last, "reason": one.reason}] if one.refusals else []),
        })  # fmt: skip
    return sorted(found, key=lambda run: (run["first"], run["run_id"]))


def _shortened(found: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return every run that was accepted and the newest of the others, in their order, and how many are left out."""
    strangers = sorted((run for run in found if run["state"] in ("asked", "refused")), key=lambda run: str(run["last"]))
    gone = {run["run_id"] for run in strangers[:-_STRANGERS]}
    return [run for run in found if run["run_id"] not in gone], len(gone)


def _vault(vault: Vault, own: Node) -> dict[str, Any]:
    root = vault.root
    found: dict[str, Any] = {"root": str(root), "exists": root.is_dir(), "problem": "", "witness": None}
    try:
        vault_folder.inspect(root)
    except checks.UserError as error:
        return {**found, "problem": str(error)}
    if not found["exists"]:
        return found
    key = (root / vault_folder.KEY).is_file()
    open_to_others = [str(path) for path in (root, *root.rglob("*")) if vault_folder.is_open(path)]
    found |= {
        "mode": f"{stat.S_IMODE(root.stat().st_mode):o}", "open": open_to_others, "key": key,
        "identity": vault.known_identity() if key else "", "writable": os.access(root, os.W_OK),
        "ledger_bytes": _size(root / vault_folder.LEDGER), "copies_bytes": _size(root / vault_folder.COPIES),
        "heads_bytes": _size(root / vault_folder.HEADS),
        "forgotten": (root / vault_folder.FORGOTTEN).exists(),
        "backup": None,
    }  # fmt: skip
    try:
        seen = witness.of_node(own)
        found |= {"answers": steps_of(vault).number, "witness": seen.file and str(seen.file)}
        vault.ledger.heads()
        vault.ledger.content_heads()
        if (root / vault_folder.BACKUP).exists():
            found["backup"] = disk.read_json(root / vault_folder.BACKUP, "note of a backup", _BACKUP)
        seen.check(vault)
    except checks.UserError as error:
        found["problem"] = str(error)
    return found


def _size(place: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    paths = [place] if place.is_file() else [*place.rglob("*")]
    return sum(path.lstat().st_size for path in paths if path.is_file() and not path.is_symlink())


def _warnings(own: Node, kept: Mapping[str, Any]) -> list[str]:
    rule = own.policy
    found = [kept["problem"]] if kept["problem"] else []
    if rule is None:
        found.append("no floor and no limit: this node follows the policy in the coordinator's configuration")
    else:
        found += ["no floor: every protection is accepted, and every generator"] * (rule.floor is None)
        if not rule.over_runs:
            found.append("no limit over runs (max-total-epsilon, max-client-epsilon): what is spent has no end")
    if own.allow_test_seed:
        found.append("allow-test-seed: fixed noise is accepted, which protects nobody")
    if own.allow_shared_generator:
        found.append("allow-shared-generator: a generator may hand out what these faces look like")
    if own.simulated:
        found.append("simulated: one vault and one data set for all nodes, and no witness of an older vault")
    if kept.get("open"):
        listed = kept["open"]
        found.append(f"others can use {len(listed)} of the vault's files, such as {listed[0]}: chmod -R go= the vault")
    if kept["exists"] and not kept.get("writable", True):
        found.append("this user cannot write into the vault")
    if kept.get("forgotten"):
        found.append("an older vault was adopted: what left after it is unknown, and totals are infinite")
    if kept.get("key"):
        done = kept["backup"]
        if done is None:
            found.append("no backup of the vault was ever made (`fedveil node backup`)")
        elif (since := kept.get("answers", 0) - done["number"]) > 0:
            found.append(f"{since} answers have left since the last backup: a node would refuse it as an older state")
    return found
