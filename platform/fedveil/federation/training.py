"""The plain training loop that clients, the budget learner and the central baseline share.

SGD is written out: the first object of `torch.optim` imports a compiler for 0.75 s, and a step needs three lines.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import nn

from fedveil import checks, device, randomness
from fedveil.federation import graphs
from fedveil.federation.classes import Competing
from fedveil.federation.pulls import Pull
from fedveil.models.backbones import _norm
from fedveil.models.heads import base


def local_sgd(
    backbone: nn.Module,
    centres: torch.Tensor,
    head: base.Head,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    *,
    centre_lr: float | None = None,
    trainable: Sequence[str] | None = None,
    restrict: torch.Tensor | None = None,
    extra_negatives: torch.Tensor | None = None,
    precision: device.Precision = "fp32",
    device_batch: int | None = None,
    pull: Pull | None = None,
    competing: Competing | None = None,
) -> float:
    """Train the backbone and the class centres in place by SGD, one step per batch, and return the mean loss.

    A backbone with a method `with_penalty(features)` returns (embeddings, scalar) there; the scalar joins the loss.
    With g the gradient of the mean loss over the batch plus `weight_decay` times the tensor, a step is
    `v <- momentum v + g; tensor <- tensor - lr v`. v starts at zero in every call, so with momentum 0 (only) several
    short calls equal one long call. Nothing is drawn at random; with one thread the result is a function of the
    arguments. The loss describes the owner's images: it is for the local caller and is not to leave the owner.

    Args:
        backbone: module from (B, C, H, W) to (B, D); tensors that `trainable` does not name keep their values.
        centres: (K, D) float32, one row per class; updated in place.
        head: margin head.
        batches: pairs of features (B, C, H, W) float32 and labels (B,) int64 in 0..K-1 (or up to K+E-1: the class of a
            fixed centre).
        lr: step size.
        centre_lr: step size of the centres; None takes `lr`.
        momentum: heavy-ball factor in [0, 1).
        weight_decay: factor of the squared-norm penalty, on every trained tensor.
        trainable: names of the backbone's tensors to train (`select_trainable`); None trains all.
        restrict: (K+E, K+E) bool; a sample of class k competes only with the classes that row k allows, which must
            include k itself. None allows all.
        extra_negatives: (E, D) fixed centres that stand behind `centres`, for instance of a public identity bank.
        precision: of the backbone's forward pass (`device.Place`); parameters, cosines and steps stay float32.
        device_batch: images that pass the backbone together, at most; None: each batch as it comes. The gradient is
            the same up to rounding.
        pull: what the backbone's steps follow beside loss and decay (see `pulls`); None: nothing.
        competing: which of the centres each batch computes (see `classes`); the others keep their values. Without
            `momentum`, `restrict` and `extra_negatives`. None: all.

    Returns:
        The mean loss over the batches, each taken before its step; NaN without a batch, after divergence and on torch's
        meta device, which has no values.
    """
    checks.positive(lr=lr)
    checks.non_negative(momentum=momentum, weight_decay=weight_decay)
    if momentum >= 1.0:
        raise checks.UserError(f"Expected momentum={momentum!r} < 1; from 1 on the steps grow without end.")
    if competing is not None and (momentum or restrict is not None or extra_negatives is not None):
        raise checks.UserError("Expected competing without momentum, restrict and extra_negatives; leave them out.")
    forbidden = None if restrict is None else _forbidden(restrict)
    fixed = None if extra_negatives is None else base.normalised(extra_negatives.detach())
    named = dict(backbone.named_parameters())
    back = lr if centre_lr is None else centre_lr
    plain = not momentum and restrict is None and extra_negatives is None and pull is None and competing is None
    settings = (head, weight_decay, precision, device_batch)
    recording = graphs.recording(backbone, centres, trainable, settings) if plain else None
    held = centres.detach() if recording is None else recording.begin(centres, lr, back)
    own_centres = held.detach().requires_grad_()  # shares its memory
    tensors = [*(named[name] for name in (named if trainable is None else trainable)), own_centres]
    part = len(tensors) <= len(named)  # some of the backbone is not trained
    rates = (_rate(lr, centres), _rate(back, centres)) if recording is None else (recording.rate, recording.centre_rate)
    velocity: list[torch.Tensor] | None = None
    losses: list[torch.Tensor] = []

    def objective(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        rows = base.normalised(tensors[-1])
        with _norm.written_out(part):
            embeddings, penalty = _embedded(backbone, features, precision)
        cosine = base.normalised(embeddings) @ (rows if fixed is None else torch.cat([rows, fixed])).T
        logits = head.logits(cosine, labels)
        if forbidden is not None:
            logits = logits.masked_fill(forbidden[labels], -math.inf)
        loss = functional.cross_entropy(logits, labels)
        return loss if penalty is None else loss + penalty

    def take(features: torch.Tensor, labels: torch.Tensor, chosen: torch.Tensor | None = None) -> torch.Tensor:
        nonlocal velocity
        loss, step = graphs.with_room(lambda: _gradients(objective, features, labels, tensors, device_batch))
        with torch.no_grad():
            if weight_decay:
                step = list(torch._foreach_add(step, tensors, alpha=weight_decay))  # a gradient may be a view
            if pull is not None:
                step[:-1] = pull(tensors[:-1], step[:-1])
            if momentum:
                if velocity is None:
                    velocity = [torch.zeros_like(tensor) for tensor in tensors]
                torch._foreach_mul_(velocity, momentum)
                torch._foreach_add_(velocity, step)
                step = velocity
            _move(tensors[:-1], step[:-1], rates[0])
            if chosen is not None:
                own_centres.index_add_(0, chosen, step[-1], alpha=-back)
            else:
                _move([own_centres], step[-1:], rates[1])
        return loss

    for number, (features, labels) in enumerate(batches):
        if recording is not None:
            losses.append(recording.take(take, features, labels))
        elif competing is not None:
            chosen = competing(number, labels)
            tensors[-1] = own_centres.detach()[chosen].requires_grad_()
            losses.append(take(features, torch.searchsorted(chosen, labels), chosen))
        else:
            losses.append(take(features, labels))
    if recording is not None:
        centres.detach().copy_(held)
    return math.nan if not losses or losses[0].is_meta else float(torch.stack(losses).mean())


def check_finite(loss: float, tensors: Iterable[torch.Tensor], **rates: float) -> None:
    """Refuse what training came to unless it is finite.

    Args:
        loss: what `local_sgd` returned.
        tensors: what it trained.
        rates: learning rates by the settings that hold them.

    Raises:
        UserError: naming the learning rates, which are what to lower.

    >>> check_finite(math.inf, [], **{"train.lr": 3.0, "train.head_lr": 9.0})
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Training diverged: the loss is not finite. Lower train.lr=3.0 or train.head_lr=9.0.
    """
    what = "the loss" if not math.isfinite(loss) else "the update"
    if math.isfinite(loss) and _all_finite([tensor.detach() for tensor in tensors]):
        return
    raise diverged(what, **rates)


def diverged(what: str, **rates: float) -> checks.UserError:
    """Return the error that something trained is not finite; `rates` as for `check_finite`."""
    named = " or ".join(f"{name}={rate!r}" for name, rate in rates.items())
    return checks.UserError(f"Training diverged: {what} is not finite. Lower {named}.")


def _all_finite(tensors: list[torch.Tensor]) -> bool:
    """Return whether all values are finite; a norm tells in one pass, and one that has overflowed tells nothing."""
    if not tensors or bool(torch.isfinite(torch.stack(torch._foreach_norm(tensors))).all()):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _gradients(
    objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    features: torch.Tensor,
    labels: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    largest: int | None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the loss of a batch and its gradients, found in parts of at most `largest` images: a mean of means."""
    count = len(labels)
    if largest is None or count <= largest:
        loss = objective(features, labels)
        # A named tensor that the loss does not reach has no gradient: it keeps its value, weight decay apart.
        found = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
        return loss.detach(), list(found)
    total, sums = torch.zeros((), device=features.device), [torch.zeros_like(tensor) for tensor in tensors]
    for part, those in zip(torch.split(features, largest), torch.split(labels, largest), strict=True):
        one, gradients = _gradients(objective, part, those, tensors, None)
        share = len(those) / count
        total += share * one
        torch._foreach_add_(sums, gradients, alpha=share)
    return total, sums


def _rate(lr: float, centres: torch.Tensor) -> float | torch.Tensor:
    """Return minus the step size: on a GPU a scalar there, as a recorded step (`graphs`) needs it."""
    return torch.full((), -lr, device=centres.device) if centres.is_cuda else -lr


def _move(tensors: Sequence[torch.Tensor], step: Sequence[torch.Tensor], rate: float | torch.Tensor) -> None:
    """Add `rate` times the step in place; with the rate on a device, the product is rounded before the sum."""
    if isinstance(rate, torch.Tensor):
        torch._foreach_add_(list(tensors), torch._foreach_mul(list(step), rate))
    else:
        torch._foreach_add_(list(tensors), list(step), alpha=rate)


def _embedded(
    backbone: nn.Module, features: torch.Tensor, precision: device.Precision
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the embeddings, float32, and the network's own term of the loss where it has one."""
    joint = getattr(backbone, "with_penalty", None)
    with device.autocast(precision, features.device):
        embeddings, penalty = (backbone(features), None) if joint is None else joint(features)
    return embeddings if precision == "fp32" else embeddings.float(), penalty


def _forbidden(restrict: torch.Tensor) -> torch.Tensor:
    if restrict.dtype != torch.bool or restrict.ndim != 2 or not bool(restrict.diagonal().all()):
        raise checks.UserError(
            f"Expected restrict of dtype bool with a true diagonal (a class must be allowed for its own images), got "
            f"{restrict.dtype} of shape {tuple(restrict.shape)}."
        )
    return ~restrict


def batch_indices(
    count: int, batch_size: int, seed: int, *labels: str | int, start_step: int = 0, steps: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the image indices of steps `start_step` to `start_step + steps - 1` of an endless schedule.

    The schedule is one permutation of 0..count-1 after another, pass p's drawn from the public seed
    `(seed, *labels, "pass", p)`, cut into batches of equal size: every image is visited once per pass, and a batch that
    a pass cannot fill is filled from the next one. Step k is a function of k, not of where rounds begin. When
    `batch_size` exceeds `count`, a batch is one whole pass (`count` images), so no image is doubled inside it.

    >>> [batch.tolist() for batch in batch_indices(3, 2, 1, "client", 7, steps=3)]
    [[0, 1], [2, 1], [0, 2]]
    """
    checks.positive(count=count, batch_size=batch_size)
    checks.non_negative(start_step=start_step, steps=steps)
    size = min(batch_size, count)
    position = start_step * size
    drawn, order = -1, np.empty(0, np.int64)
    for _ in range(steps):
        batch = np.empty(size, np.int64)
        filled = 0
        while filled < size:
            which, offset = divmod(position, count)
            if which != drawn:
                drawn, order = which, randomness.public_rng(seed, *labels, "pass", which).permutation(count)
            part = order[offset : offset + size - filled]
            batch[filled : filled + len(part)] = part
            filled += len(part)
            position += len(part)
        yield batch


def steps_for_epochs(count: int, batch_size: int, epochs: int) -> int:
    """Return the fewest steps of `batch_indices` that visit every image at least `epochs` times.

    >>> steps_for_epochs(count=33, batch_size=32, epochs=1), steps_for_epochs(count=10, batch_size=32, epochs=3)
    (2, 3)
    """
    checks.positive(count=count, batch_size=batch_size, epochs=epochs)
    return -(-epochs * count // min(batch_size, count))


def select_trainable(names: Iterable[str], patterns: str) -> tuple[str, ...]:
    """Return the tensor names that `patterns` selects, in the order of `names`.

    Args:
        names: the backbone's parameter names.
        patterns: "all", or shell patterns with commas between them.

    Raises:
        UserError: if a pattern selects nothing; the message offers the nearest name.

    >>> select_trainable(["stem.weight", "norm.weight", "norm.bias"], "norm.*")
    ('norm.weight', 'norm.bias')
    >>> select_trainable(["stem.weight", "norm.weight"], "nrm.weight")
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Pattern 'nrm.weight' of train.trainable names no tensor of the model. Did you mean \
'norm.weight'?
    """
    known = list(names)
    if patterns.strip() == "all":
        return tuple(known)
    chosen: set[str] = set()
    for pattern in (part.strip() for part in patterns.split(",")):
        found = fnmatch.filter(known, pattern)
        if not found:
            prefixes = {".".join(name.split(".")[:k]) for name in known for k in range(1, name.count(".") + 2)}
            hint = checks.nearest(pattern.rstrip("*."), sorted(prefixes)) or f" They begin with {sorted(known)[:3]}."
            raise checks.UserError(f"Pattern {pattern!r} of train.trainable names no tensor of the model.{hint}")
        chosen.update(found)
    return tuple(name for name in known if name in chosen)


def head_init(count: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    """Return (count, dim) random centres, normal of variance 1 / dim, so about unit length.

    Only a centre's direction enters the loss, and its gradient falls with its length: at unit length one learning rate
    suits random and class-mean centres alike.
    """
    checks.positive(count=count, dim=dim)
    return torch.randn(count, dim, generator=generator) / math.sqrt(dim)
