"""A pass in which modules with trained parameters answer by their rules; what has no rule is refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from fedveil import checks
from fedveil.models.backbones import _ir
from fedveil.private_training import _convolution, _products, _rules, classifier
from fedveil.private_training._rules import Entry
from fedveil.private_training._shares import Book

RULES: dict[type[nn.Module], _rules.Rule] = {
    nn.Conv2d: _convolution.Conv2d(),
    nn.Linear: _products.Linear(),
    classifier.CosineLayer: _products.Cosine(),
    nn.GroupNorm: _rules.GroupNorm(),
    _ir.GroupNorm: _rules.GroupNorm(),
    nn.PReLU: _rules.PReLU(),
    _ir.Affine: _rules.Affine(),
}
"""By exact type: a subclass may compute something else."""

_REMEDY = "take gradients=loop, or leave its tensors out of train.trainable"


class _Through(torch.autograd.Function):
    """A module's rule as a node of autograd's graph; `token` requires a gradient, so that every node is visited."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, token: torch.Tensor, entry: Entry) -> torch.Tensor:
        y, saved = entry.rule.forward(entry.module, x)
        ctx.save_for_backward(*saved)
        ctx.entry = entry
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        return ctx.entry.rule.backward(ctx.entry, ctx.saved_tensors, g, ctx.needs_input_grad[0]), None, None


def entries(network: nn.Module, tensors: Sequence[nn.Parameter], book: Book) -> list[Entry]:
    """Return an entry for every module with a trained parameter.

    Raises:
        fedveil.checks.UserError: naming the module that has no rule, or the tensor that two modules share.
    """
    index = {id(tensor): number for number, tensor in enumerate(tensors)}
    found, owners = [], dict[int, str]()
    for name, module in network.named_modules():
        own = {key: index[id(parameter)] for key, parameter in module._parameters.items() if id(parameter) in index}
        if not own:
            continue
        for number in own.values():
            if number in owners:
                raise checks.UserError(
                    f"{owners[number]} and {name} share a tensor, so a unit's norm is no sum over modules; {_REMEDY}."
                )
            owners[number] = name
        if not _has_rule(module, set(own)):
            known = sorted({kind.__name__ for kind in RULES})
            raise checks.UserError(
                f"{name or 'the network'} ({type(module).__name__}) has trained tensors {sorted(own)} and no rule for "
                f"units' gradients; there are rules for {known} with zero padding. Build it of these, or {_REMEDY}."
            )
        found.append(Entry(name, module, RULES[type(module)], own, book))
    return found


def _has_rule(module: nn.Module, trained: set[str]) -> bool:
    if type(module) not in RULES or "forward" in vars(module) or not trained <= {"weight", "bias"}:
        return False
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return True


@contextlib.contextmanager
def taken_over(found: Sequence[Entry], book: Book, token: torch.Tensor) -> Iterator[None]:
    """Let the entries' modules answer by their rules inside the context."""

    def answering(entry: Entry) -> Any:
        def forward(x: torch.Tensor) -> torch.Tensor:
            if entry.name in book.seen:
                raise checks.UserError(
                    f"{entry.name} ({type(entry.module).__name__}) is used twice in one forward pass, so a unit's norm "
                    f"is not a sum over uses; {_REMEDY}."
                )
            book.seen.add(entry.name)
            through: torch.Tensor = _Through.apply(x, token, entry)  # type: ignore[no-untyped-call]
            return through

        return forward

    try:
        for entry in found:
            entry.module.forward = answering(entry)
        yield
    finally:
        for entry in found:
            vars(entry.module).pop("forward", None)


def check_reached(loss: torch.Tensor, network: nn.Module) -> None:
    """Refuse a trained parameter that autograd saw: it was used outside its module's forward.

    Raises:
        fedveil.checks.UserError: naming the parameter.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    waiting, met = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in met:
            continue
        met.add(node)
        name = names.get(id(getattr(node, "variable", None)))
        if name is not None:
            raise checks.UserError(
                f"{name} is used outside its module's forward, where no rule sees it; call the module, or {_REMEDY}."
            )
        waiting.extend(following for following, _ in node.next_functions)
