"""A client's control variate (SCAFFOLD): what its own gradients were, kept in its vault and taken out of its steps.

The client never sends it. What it does send, its update without the part that the mean variate c made of it, tells the
coordinator how the mean of all variates moves (`fedveil_strategies.control`): nothing leaves beside the update.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks
from fedveil.federation import pulls
from fedveil.federation.variates import PREFIX
from fedveil.records import Tensors
from fedveil_clients.heads import Heads
from fedveil_clients.sites import Site


def before(site: Site, round_number: int, phase: str) -> NDArray[np.float32] | None:
    """Return the variate (P,) that a round starts from, in the order of the allow-list; None without a correction.

    It is zero for a client that joins for the first time.
    """
    if site.federation.settings.train.correction == "none":
        return None
    kept = _store(site, phase).before(round_number)
    count = sum(tensor.numel() for tensor in _trained(site))
    if kept is None:
        return np.zeros(count, np.float32)
    if kept.shape != (1, count):
        raise checks.UserError(
            f"{_store(site, phase).folder} holds a control variate of {kept.size} numbers for {count} trained ones: it "
            "is another run's. Restore the vault from a backup, or start a new run."
        )
    found: NDArray[np.float32] = kept[0]
    return found


def pull(site: Site, tensors: Tensors, control: NDArray[np.float32] | None) -> pulls.Pull | None:
    """Return what the local steps follow beside the loss; the site's backbone is where the round begins.

    Args:
        site: the client.
        tensors: what the round sent: the global tensors, and c beside them where there is a correction.
        control: what `before` returned.
    """
    strength, parts = site.federation.settings.train.proximal, []
    if strength:
        parts.append(pulls.proximal(_trained(site), strength))
    if control is not None:
        shapes = [tensor.shape for tensor in _trained(site)]
        split = torch.split(torch.from_numpy(control - _mean(site, tensors)), [shape.numel() for shape in shapes])
        parts.append(pulls.without([part.view(shape) for part, shape in zip(split, shapes, strict=True)]))
    return pulls.joined(parts) if parts else None


def own(
    site: Site, tensors: Tensors, update: Mapping[str, NDArray[np.float32]], length: float
) -> dict[str, NDArray[np.float32]]:
    """Return an update without what c, the same for all clients, did to it: the coordinator adds that once.

    Args:
        site: the client.
        tensors: what the round sent.
        update: local minus global.
        length: number of steps times their learning rate.
    """
    return {name: update[name] + np.float32(length) * tensors[PREFIX + name] for name in site.allowed}


def save(
    site: Site,
    round_number: int,
    phase: str,
    control: NDArray[np.float32],
    update: Mapping[str, NDArray[np.float32]],
    length: float,
) -> None:
    """Keep the variate after a round: control - update / length, the mean gradient of its steps (option II).

    Args:
        site: the client.
        round_number: of the run.
        phase: as for its class centres.
        control: what the round started from.
        update: what `own` returned.
        length: number of steps times their learning rate.
    """
    moved = np.concatenate([update[name].ravel() for name in site.allowed])
    after = (control - moved.astype(np.float64) / length).astype(np.float32)
    if not np.isfinite(after).all():
        raise checks.UserError("Training diverged: the control variate is not finite. Lower train.lr.")
    _store(site, phase).save(round_number, after[None])


def _trained(site: Site) -> list[torch.Tensor]:
    named = dict(site.backbone.named_parameters())
    return [named[name].detach() for name in site.allowed]


def _mean(site: Site, tensors: Tensors) -> NDArray[np.float32]:
    return np.concatenate([tensors[PREFIX + name].ravel() for name in site.allowed])


def _store(site: Site, phase: str) -> Heads:
    heads = site.vault.heads(site.run_id, site.client_id, phase)
    return Heads(heads.folder / "drift", "control variates")
