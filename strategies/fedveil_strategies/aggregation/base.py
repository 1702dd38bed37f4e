"""The contract of aggregation rules: a pure step from the mean update to new global tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedveil import blocks

Tensors = dict[str, NDArray[np.float32]]
Mean = dict[str, NDArray[np.float64]]


class Aggregation(Protocol):
    """A server optimiser, run after aggregation (and after noise, where there is noise: post-processing).

    `mean` holds local-minus-global averages, so the descent direction is `+mean`. `state` starts empty and is saved in
    every checkpoint; both results are new values.
    """

    def step(self, tensors: Tensors, mean: Mean, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return the new global tensors and the new state; tensors that `mean` lacks keep their values."""


def blockwise(rule: Callable[..., NDArray[Any]], *arrays: NDArray[Any]) -> NDArray[np.float32]:
    """Return `rule` of arrays of one shape, element by element, as float32.

    It sees a block at a time, on all cores: no intermediate result is as large as a tensor, and none leaves the cache.

    >>> blockwise(lambda a, b: a + 2 * b, np.ones(3, np.float32), np.arange(3.0))
    array([1., 3., 5.], dtype=float32)
    """
    result = np.empty(arrays[0].shape, np.float32)
    flat, given = result.reshape(-1), [np.ascontiguousarray(array).reshape(-1) for array in arrays]

    def work(span: slice, scratch: blocks.Scratch) -> None:
        flat[span] = rule(*(array[span] for array in given))

    blocks.each(work, blocks.spans(flat.size), flat.size)
    return result
