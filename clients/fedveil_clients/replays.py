"""A simulation's clients in this process, free of Flower: for runs that are trained again to be compared with.

A membership attack trains the attacked run's own configuration on other people, in a vault that is thrown away. It also
asks what whoever holds the clients' vaults could tell, which is all about their own pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil.configuration import places
from fedveil.federation.federation import Federation
from fedveil.records import Tensors, Update
from fedveil_clients import local, rows
from fedveil_clients.policy import Node
from fedveil_clients.sites import Site, open_site
from fedveil_clients.vault import Vault

Transport = Callable[[int, Sequence[str], Tensors, Mapping[str, torch.Tensor]], Iterator[Update]]


@dataclasses.dataclass(frozen=True)
class Centres:
    """What one client kept of the recogniser.

    Attributes:
        rows: (K, D) class centres, those of a bank behind the client's own.
        of: person's name -> row.
    """

    rows: NDArray[np.float32]
    of: Mapping[str, int]


def clients(federation: Federation, run_id: str) -> Transport:
    """Return the clients of a new run, which train one after another as they are asked and keep what clients keep.

    Args:
        federation: of the run; `vault.root` is where their one vault is made, and should be a folder to throw away.
        run_id: of the run.
    """
    settings = federation.settings
    where = places.of_source(settings.data.name)
    node = Node(
        "references", allow_test_seed=True, vault_root=settings.vault.root, simulated=True, device=settings.device,
        device_batch=settings.device_batch, data_root=None if where is None else str(settings.data.settings[where]),
        identity_bank=settings.train.synthetic,
    )  # fmt: skip
    sites: dict[tuple[str, int], Site] = {}

    def transport(
        number: int, cohort: Sequence[str], tensors: Tensors, state: Mapping[str, torch.Tensor]
    ) -> Iterator[Update]:
        torch.set_num_threads(1)  # as on every engine
        stage = federation.stage_of(number)
        step = local.train_round(federation)
        for client in cohort:
            key = client, stage.index
            if key not in sites:
                sites[key] = open_site(federation, run_id, client, node, state, stage.first)
            update = step(sites[key], number, tensors)
            sites[key].booked.on_disk()
            yield update

    return transport


def kept_centres(federation: Federation, run_id: str, client_id: str) -> Centres | None:
    """Return the class centres that a client of a simulation has in the run's vault; None where there are none.

    Args:
        federation: of the run; `vault.root` says where the vault is.
        run_id: of the run.
        client_id: of the registry.
    """
    vault = Vault(Path(federation.settings.vault.root))
    found = vault.heads(run_id, client_id).before(federation.total_rounds + 1)
    if found is None:
        return None
    names = federation.faces_of(client_id).present_names
    places = np.arange(len(names))
    if federation.private is not None:
        places = rows.of_people(names, federation.private.rows, federation.settings.seed)
    bank = 0 if federation.private is not None or federation.bank is None else federation.bank.identities.size
    expected = len(names) + bank if federation.private is None else federation.private.rows
    if len(found) != expected:  # another run's, or pictures were added since
        return None
    return Centres(found, dict(zip(names, places.tolist(), strict=True)))
