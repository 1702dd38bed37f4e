"""How far a vault has come by itself: a count of its answers, and a chain of hashes with a fresh step for each.

`witness` compares it with what lies outside the vault.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from fedveil import checks, runs
from fedveil.privacy.ledger import GENESIS, Ends
from fedveil.storage import disk
from fedveil_clients import vault_folder
from fedveil_clients.vault import Vault

_STEPS = {"number": int, "heads": [str], "rows": int, "row": str, "pictures": int, "picture": str, "witness": str}


@dataclasses.dataclass(frozen=True)
class Steps:
    """How far a vault has come.

    Attributes:
        number: answers so far; 0 for a vault that has given none.
        heads: the last steps of the chain, the newest last; never empty.
        ends: where its ledger stood at the last step.
        witness: where its witness was then.
    """

    number: int = 0
    heads: tuple[str, ...] = (GENESIS,)
    ends: Ends = dataclasses.field(default_factory=Ends)
    witness: str = ""


def steps_of(vault: Vault) -> Steps:
    """Return how far a vault has come by itself."""
    path = vault.root / vault_folder.SEQUENCE
    if not os.path.lexists(path):
        return Steps()
    found = disk.read_json(path, "count of a vault's answers", _STEPS, "Restore the vault from its newest backup.")
    if not found["heads"]:
        raise checks.UserError(f"{path} holds no step. Restore the vault from its newest backup.")
    ends = Ends(*(found[name] for name in ("rows", "row", "pictures", "picture")))
    return Steps(found["number"], tuple(found["heads"]), ends, found["witness"])


def write_steps(vault: Vault, steps: Steps) -> None:
    """Write how far a vault has come; on disk when this returns."""
    said: dict[str, Any] = {"number": steps.number, "heads": steps.heads, **dataclasses.asdict(steps.ends)}
    runs.write_json(vault.root / vault_folder.SEQUENCE, {**said, "witness": steps.witness}, private=True)
