"""Which class centre a person has in private training: one that does not depend on who else is there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedveil import randomness


def of_people(names: Sequence[str], rows: int, seed: int) -> NDArray[np.int64]:
    """Return (n,) the row of each person, in 0..rows-1, by a hash of the name and of the public seed.

    With numbers that are dealt in order, somebody more or less would move everybody behind to other rows, and with them
    every gradient of theirs. So two people may share a row: of n people about n^2 / (2 rows) pairs do.

    >>> of_people(["ann", "bob"], 256, 1).tolist() == of_people(["bob"], 256, 1).tolist() * 2
    False
    >>> of_people(["ann", "bob"], 256, 1)[1:].tolist() == of_people(["bob"], 256, 1).tolist()
    True
    """
    found = [randomness.derive_seed(seed, "row", name) % rows for name in names]
    return np.array(found, np.int64)
