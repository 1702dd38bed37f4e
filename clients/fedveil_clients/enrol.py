"""A gallery of protected faces for a recognition service: from pictures, or from features that are stored already.

It is a release by the owner: the floor is checked and the row is in the owner's ledger before anything is drawn. Only
for protections without a formal guarantee: copies under one are drawn once and kept in the vault, which a file of fresh
ones would bypass.
"""

from __future__ import annotations

import dataclasses
import io
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, readback, runs
from fedveil.configuration.schema import Config
from fedveil.console import Console
from fedveil.data import decode
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.privacy import statements
from fedveil.privacy.events import NonPrivate, Synthetic
from fedveil.privacy.ledger import EVERYBODY, Row, checked_name, deal_of
from fedveil.randomness import SecretStream, os_key
from fedveil_clients import adopting, booking, policy, witness
from fedveil_clients.memo import content_hashes
from fedveil_clients.vault import Vault

_AT_ONCE = 64  # rows between two steps of the bar


def enrol(own: Config, run_id: str, owner: str, source: Path, out: Path) -> str:
    """Write the gallery of `source` under a finished run's protection, and return what was done, in sentences.

    `out` is an .npz file of `features` (N, C, h, w) float32, `names` (N,) of the pictures or row numbers, and the run
    and the model that they belong to: features of another model do not match them. Every call draws afresh, so it is
    another release and another row.

    Args:
        own: the owner's configuration; its run store, vault and policy are used.
        run_id: a finished run of the store, whose learnt state protects.
        owner: the data set's id in the owner's ledger.
        source: a picture or a folder of them (online enrolment), or an .npy file of clean features (N, C, h, w) that
            this run's client layers made (offline enrolment: the pictures are not needed).
        out: a new file.

    Raises:
        fedveil.checks.UserError: no such run, one that has not ended, one with a formal guarantee, a source that the
            protection cannot read, an `out` that is there already, or a refusal by the owner's policy. Nothing is
            booked and nothing written then.
    """
    _new(out)
    if not deal_of(owner)[1] or owner.endswith(EVERYBODY):
        checked_name(owner, "--owner")
    run = runs.open_run(Path(own.runs.root), run_id)
    kept, model = readback.settings_of(run), str(readback.result_of(run)["model_sha256"])
    federation = Federation(dataclasses.replace(kept, vault=own.vault, policy=own.policy))
    protection, side = federation.protection, federation.size[0]
    if not run.checkpoint.exists():
        raise checks.UserError(f"{run.checkpoint}, which holds how faces are protected, is missing; restore it.")
    arrays, _ = readback.checkpoint_of(run)
    state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("state/")}
    event = federation.release_event(state)
    name = kept.protection.name
    if not isinstance(event, NonPrivate):
        raise checks.UserError(
            f"Run {run_id} protects with {name}, under a formal guarantee: its copies are drawn once, booked and kept "
            "in the owner's vault. A gallery of fresh copies would be another release of the same faces."
        )
    problems: Sequence[object] = ()
    contents: list[bytes] = []
    if source.suffix == ".npy":
        if not hasattr(protection, "converted"):
            raise checks.UserError(
                f"{source} holds features, and {name} protects pictures alone; only advface converts stored features."
            )
        inputs = torch.from_numpy(_table(source, protection.representation((side, side))))
        names, convert = [str(row) for row in range(len(inputs))], protection.converted
    else:
        pixels, names, problems = decode.pictures(source, side)
        inputs, convert, contents = torch.from_numpy(pixels), protection.release, content_hashes(pixels)
    vault = Vault(Path(own.vault.root))
    vault.create()
    seen = witness.of_vault(vault)
    seen.check(vault)
    node = policy.Node(owner, allow_test_seed=True)  # the gallery's own draws are never fixed
    try:
        policy.check(federation, node, event, training=False)
        adopting.ensure(vault, owner)
        booking.enrolled(own.policy, run_id, node, vault, event, vault.picture_tags(contents))
    except policy.PolicyRefusal as refusal:
        raise checks.UserError(f"Refused: {refusal}.") from refusal
    seen.advance(vault)
    learnt = [one for one in readback.ledger_of(run).rows(run_id) if isinstance(one.event, Synthetic)]
    rows = [*learnt, Row(run_id, owner, "spent", event)]
    features = _released(convert, inputs, state)
    buffer = io.BytesIO()
    np.savez(
        buffer, features=features, names=np.array(names), run_id=np.array(run_id), protection=np.array(name),
        model_sha256=np.array(model),
    )  # fmt: skip
    runs.write_atomic(out, buffer.getvalue(), private=True)
    shape = "x".join(map(str, features.shape[1:]))
    lines = [f"{out}: {len(features)} faces through {name}, {shape} each, {features.nbytes / 1e6:.1f} MB"]
    lines += [f"left out: {problem}" for problem in problems]
    said = (statements.claim(one) for one in claims.of_run(federation, rows).statements)
    lines += [textwrap.fill(text, 80, subsequent_indent="  ") for text in said]
    lines.append(f"booked for {owner}: fedveil ledger --owner {owner}")
    return "\n".join(lines)


def _new(out: Path) -> None:
    if out.exists():
        raise checks.UserError(f"{out} is there already; name a new file with --out, or remove it.")
    if not out.absolute().parent.is_dir():
        raise checks.UserError(f"--out {out}: there is no folder {out.absolute().parent}.")


def _table(source: Path, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the table of an .npy file, checked."""
    try:
        with source.open("rb") as stream:
            table = np.load(stream, allow_pickle=False)
    except FileNotFoundError as error:
        raise checks.UserError(f"No such file: {source}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise checks.UserError(f"{source} is not a readable .npy file: {error}") from error
    wanted = f"finite floats of shape (N, {', '.join(map(str, shape))}) with N at least 1"
    if not isinstance(table, np.ndarray):
        raise checks.UserError(f"Expected {source} to hold one array, {wanted}; it is an archive of several.")
    right = table.dtype.kind == "f" and table.shape[1:] == tuple(shape) and len(table) > 0
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(table, np.float32) if right else None
    if values is None or not np.isfinite(values).all():
        raise checks.UserError(
            f"Expected {source} to hold {wanted}, got {table.dtype} {table.shape}; it must come from the client layers "
            "of this run."
        )
    return values


def _released(convert: Any, inputs: torch.Tensor, state: dict[str, torch.Tensor]) -> NDArray[np.float32]:
    """Return what leaves; every row has its own key from the operating system."""
    console, parts = Console(), []
    for start in range(0, len(inputs), _AT_ONCE):
        rows = inputs[start : start + _AT_ONCE]
        parts.append(convert(rows, state, [SecretStream(os_key()) for _ in range(len(rows))]).numpy())
        console.progress(start + len(rows), len(inputs))
    found: NDArray[np.float32] = np.concatenate(parts)
    return found
