"""One .npz file with a whole set of faces."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from fedveil import checks
from fedveil.configuration.marks import PLACE
from fedveil.data import archive, files, packed_faces, provenance
from fedveil.data.faces import FaceSet
from fedveil.data.held_out import HeldOut
from fedveil.data.pairs import PairSet
from fedveil.data.split import Split

_LAYOUT = "expected an .npz with labels, names and images"


@dataclasses.dataclass(frozen=True)
class Packed(HeldOut):
    """One .npz file with labels, names and pictures (arrays, or JPEG bytes with offsets).

    Pictures are decoded when first used and kept in memory as uint8 at the target size. Pickled objects are refused.

    Attributes:
        path: the .npz file; its fields are described in `fedveil.data.archive`.

    The other settings are those of `HeldOut`.
    """

    path: Annotated[str, PLACE] = ""

    def place(self, seed: int) -> str:
        """Return where the pictures are, by its absolute name."""
        return files.absolute(self.path)

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        """Return the split; `size_hint` replaces `size`.

        Raises:
            UserError: a missing or damaged file, missing fields, labels out of range, synthetic faces, or evaluation
                that nobody declared public.
        """
        self.require_place("path", self.path, _LAYOUT)
        self.require_declaration()
        return self.split(packed_faces.faces_of(self._photographs(), size_hint or self.size), seed)

    def evaluated(self, seed: int) -> PairSet:
        """Return the verification pairs alone."""
        if self.evaluates_own and self.path:
            self._photographs()
        return super().evaluated(seed)

    def _photographs(self) -> archive.Archive:
        """Return the opened file, which holds no synthetic faces."""
        opened = archive.open_archive(self.path, packed_faces.FIELDS)
        if provenance.is_synthetic(opened):  # as photographs they would claim what their generator does not
            raise checks.UserError(
                f"data.path={self.path!r} holds synthetic faces, of which no more can be claimed than of their "
                "generator: read them with data=synthetic."
            )
        return opened

    def whole(self, seed: int) -> FaceSet:
        """Return everybody, nobody left out or held out."""
        self.require_place("path", self.path, _LAYOUT)
        return packed_faces.faces_of(archive.open_archive(self.path, packed_faces.FIELDS), self.size)


METHOD = Packed
