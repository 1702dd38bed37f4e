"""What a node would say to a run: data, floor, release, ledger, verdict. Nothing leaves and nothing is written.

The run is accepted on a copy of the vault's ledger, by the code that accepts it in earnest, so the verdict is the same.
What is only known once a run has begun is what its protection learns: noisy copies that would be read again are
counted as new ones.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedveil import checks
from fedveil.configuration.schema import Policy
from fedveil.data.faces import FaceSet
from fedveil.federation import claims, synthetic
from fedveil.federation.federation import Federation
from fedveil.privacy import statements, totals
from fedveil.privacy.ledger import Held
from fedveil.privacy.spending import Past
from fedveil.privacy.statements import Statement
from fedveil_clients import adopting, booking, node, policy, vault_folder, witness
from fedveil_clients.memo import ReadOnce
from fedveil_clients.node import Here
from fedveil_clients.sites import own_faces
from fedveil_clients.vault import Vault

_RUN_ID = "not-a-run"
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Found:
    """What a check found: a text at 80 columns, and why the node would refuse (empty: it would accept)."""

    text: str
    refusal: str


def check(words: Mapping[str, Any], run: Federation) -> Found:
    """Return what a node of these words would say to a run.

    Args:
        words: of the node's configuration.
        run: as the node would receive it.

    Raises:
        fedveil.checks.UserError: the words do not make a node of this run, or its pictures cannot be read at all.
    """
    here = node.here(run, words)
    rule, own = here.node.policy or run.settings.policy, here.node.policy is not None
    settings = run.settings
    lines = [
        f"client {here.client_id}, data set {here.node.data_set}",
        f"run: {settings.train.clients} clients, {run.total_rounds} rounds, data={settings.data.name}, "
        f"protection={settings.protection.name}, generator={settings.generator.name}",
    ]
    lines += ["", "floor and limits" if own else "floor and limits (the coordinator's: the node has none of its own)"]
    lines += _indented(limits(rule) or ["none: everything is accepted"])
    schedule = settings.privacy.client is not None
    learnt = synthetic.learnt(here.home.settings)  # of this machine's files: where a backbone starts is not told
    lines += ["", "the run would release" + (", and reserve at client level" if schedule else "")]
    lines += _claims(claims.planned(run, run.planned_event, learnt=learnt).statements)
    refusal = ""
    try:
        policy.check(run, here.node, run.planned_event)
    except policy.PolicyRefusal as reason:
        refusal = str(reason)
    faces = own_faces(here.home, here.client_id, here.node)
    lines += ["", f"data {here.node.data_root or 'drawn'}", *_data(here, faces)]
    root = here.node.vault()
    lines += ["", f"vault {root}"]
    faces = faces.without_unreadable()
    before: list[Statement] = []
    try:
        lines += _vault(root)
        with _copied(root) as vault:
            before, after, limit = _accepted(here, rule, faces, vault)
        witness.of_node(here.node).check(Vault(root))
    except checks.UserError as reason:
        limit = str(reason)
    refusal = refusal or limit
    lines += _indented(["spent so far:" if before else "nothing is spent so far"]) + _claims(before)
    if not refusal:
        lines += _indented(["after this run, if it draws anew:"]) + _claims(after)
    verdict = f"refused: {refusal}" if refusal else "accepted"
    lines += ["", textwrap.fill(f"verdict: {verdict}", 80, subsequent_indent="  ")]
    return Found("\n".join(lines), refusal)


def limits(rule: Policy) -> list[str]:
    """Return an owner's floor and limits in words, one each; none without any."""
    found = [f"methods: {', '.join(rule.floor)}"] if rule.floor is not None else []
    for limit, delta, what in (
        (rule.max_epsilon, rule.image_delta, "one image in one run"),
        (rule.max_total_epsilon, rule.image_delta, "one image over all runs"),
        (rule.max_client_epsilon, rule.client_delta, "the whole data set over all client-level schedules"),
    ):
        if limit is not None:
            found.append(f"epsilon of at most {limit:g} at delta {delta:g} for {what}")
    return found


def _claims(found: Sequence[Statement]) -> list[str]:
    form = {"initial_indent": "  - ", "subsequent_indent": "    "}
    return [textwrap.fill(statements.claim(one), 80, **form) for one in found]  # type: ignore[arg-type]  # both texts


def _data(here: Here, faces: FaceSet) -> list[str]:
    """Return what there is, what the run's public caps leave of it, and what was left out."""
    whole = here.home.split.train
    lines = [f"{faces.identities.size} people and {len(faces)} pictures would be used"]
    if here.node.data_root is not None:
        lines[0] += f", of {whole.identities.size} and {len(whole)} that are read"
    people, pictures = here.run.settings.partition.max_identities, here.run.settings.partition.max_images_per_identity
    lines.append(f"caps of the run: {pictures} pictures of a person, {people or 'any number of'} people")
    lines += list(whole.notes)
    if whole.skipped:
        lines.append(f"{len(whole.skipped)} files or people left out:")
        lines += [f"  {problem}" for problem in whole.skipped[:_LISTED]]
        lines += [f"  and {len(whole.skipped) - _LISTED} more"] if len(whole.skipped) > _LISTED else []
    return _indented(lines)


def _vault(root: Path) -> list[str]:
    """Return whether the vault is there and closed to others."""
    vault_folder.inspect(root)
    if not root.exists():
        return _indented(["is not there; accepting a run makes it, readable by this user alone"])
    key = root / "owner.key"
    lines = [f"mode {stat.S_IMODE(root.stat().st_mode):o}, {'with' if key.is_file() else 'without'} a key"]
    wide = [path for path in (root, *root.rglob("*")) if path.lstat().st_mode & 0o077 and not path.is_symlink()]
    if wide:
        lines.append(f"others can use {len(wide)} of its files, such as {wide[0]}: chmod -R go= {root}")
    if not os.access(root, os.W_OK):
        lines.append("this user cannot write into it")
    if key.is_file():
        lines.append(f"identity {Vault(root).known_identity()}")
    return _indented(lines)


@contextmanager
def _copied(root: Path) -> Iterator[Vault]:
    """Yield a vault with the same key and a copy of the ledger, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fedveil-check-") as folder:
        if (root / "owner.key").is_file():
            (Path(folder) / "owner.key").symlink_to((root / "owner.key").absolute())  # the key is not copied
        for name in (vault_folder.LEDGER, vault_folder.FORGOTTEN):
            if (root / name).is_file():
                shutil.copy(root / name, folder)
        try:
            yield Vault(Path(folder))
        except checks.UserError as error:  # of the copy, which nobody but this check has seen
            raise checks.UserError(str(error).replace(folder, str(root))) from error


def _accepted(
    here: Here, rule: Policy, faces: FaceSet, vault: Vault
) -> tuple[list[Statement], list[Statement], str]:
    """Return what the data set has spent, what it would have spent, and why the run would be refused."""
    event, name = here.run.planned_event, here.node.data_set
    listed = booking.listed(faces, name)
    held = booking.pictures_of(faces, listed, vault, event, ReadOnce(faces.images))
    before = _total(vault, rule, name, held)
    home = here.home if here.node.simulated else here.run
    bank = here.run.settings.train.bank_identities
    if here.run.private is None and faces.identities.size + bank < 2:
        return before, before, "one person teaches nothing: it needs two, or train.bank_identities"
    try:
        policy.check_count(here.run, here.node, event, len(faces), int(faces.identities.size))
        adopting.ensure(vault, name)
        booking.accept(home, _RUN_ID, vault, booking.Joining(here.client_id, here.node, event, b"anew", held)).on_disk()
    except policy.PolicyRefusal as reason:
        return before, before, str(reason)
    return before, _total(vault, rule, name, held), ""


def _total(vault: Vault, rule: Policy, name: str, held: Sequence[Held]) -> list[Statement]:
    ledger = vault.ledger
    if not ledger.path.exists():
        return []
    pictures = [one.picture for one in held]
    with ledger.read() as book:
        past = Past(book.rows(), book.recorded(), rule.image_delta)
        history = past.history(name, book.holders(pictures), book.draws(pictures))
    return totals.of_history(history, totals.Deltas(rule.image_delta, rule.client_delta))


def _indented(lines: Sequence[str]) -> list[str]:
    return [textwrap.fill(line, 80, initial_indent="  ", subsequent_indent="    ") for line in lines]
