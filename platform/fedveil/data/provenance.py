"""What a set of synthetic faces was made from: kept in its file, read before a face of it is used.

Faces of a generator are no more private than its training. So a set without an account of that training, or with one
that cannot be read, is refused: nothing could be claimed of what is computed from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import fedveil
from fedveil import checks
from fedveil.data.archive import Archive, open_archive
from fedveil.data.names import printable
from fedveil.privacy import inherited
from fedveil.privacy.events import Synthetic

Mode = Literal["public", "federated", "shared"]
FIELD, KEY = "provenance", "synthetic"
"""The field of a packed file, and the block of its JSON."""
_HASH = re.compile(r"[0-9a-f]{64}")
LONGEST = 300
"""Characters of words, at most."""
_FIELDS = ("mode", "generator", "learnt_from", "statements", "seed", "settings")


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a set of synthetic faces was made from.

    Attributes:
        mode: "public": its generator learnt from public people, and no private face was touched. "federated": it learnt
            under differential privacy, and `statements` hold for everything that is computed from its samples.
            "shared": it was trained on private faces without a guarantee, so epsilon is infinite wherever it is used.
        generator: SHA-256 of the generator's tensors, 64 hexadecimal digits.
        learnt_from: whose faces it learnt from, in words.
        statements: what may be claimed of its training, as in result.json (`privacy.statements.Statement.to_dict`);
            none of a public one.
        seed: public seed of the samples.
        settings: how they were sampled, plain JSON types.
    """

    mode: Mode
    generator: str
    learnt_from: str
    statements: tuple[Mapping[str, Any], ...] = ()
    seed: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.one_of(get_args(Mode), mode=self.mode)
        if not isinstance(self.generator, str) or not _HASH.fullmatch(self.generator):
            raise checks.UserError(f"Expected generator={self.generator!r} to be a SHA-256, 64 hexadecimal digits.")
        words = self.learnt_from
        if not isinstance(words, str) or not 0 < len(words.strip()) <= len(words) <= LONGEST:
            raise checks.UserError(f"Expected learnt_from={words!r} to say whose faces, in at most {LONGEST} letters.")
        if printable(words) != words:
            raise checks.UserError(f"Expected learnt_from={printable(words)!r} of letters that can be printed.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise checks.UserError(f"Expected seed={self.seed!r} to be a whole number.")
        if not isinstance(self.settings, Mapping):
            raise checks.UserError(f"Expected settings={self.settings!r} to be a block.")
        if self.mode == "public" and self.statements:
            raise checks.UserError("A public generator has no statements: nobody private is in its training.")
        for number, plain in enumerate(self.statements):
            try:
                inherited.statement_of(plain)
            except checks.UserError as error:
                raise checks.UserError(f"Statement {number} of the provenance {error}.") from error

    @property
    def origin(self) -> str:
        """A SHA-256 of what may be claimed: two files of one origin are samples of one generator."""
        claimed = [self.mode, self.generator, self.learnt_from, [inherited.written(one) for one in self.statements]]
        return hashlib.sha256(json.dumps(claimed).encode()).hexdigest()

    @property
    def is_public(self) -> bool:
        """Whether its faces may be shown: nobody private is on them, or a guarantee bounds what they tell."""
        return self.mode == "public" or (self.mode == "federated" and inherited.leak(self.event("data")) is None)

    def event(self, use: Literal["data", "start", "bank"]) -> Synthetic:
        """Return the event of a run that reads the set."""
        claimed = tuple(inherited.written(one) for one in self.statements)
        return Synthetic(use, self.mode, self.generator, self.learnt_from, claimed)

    def to_text(self, size: int) -> str:
        """Return the JSON of a packed file's field `provenance`; `data inspect` shows what is beside the block."""
        block = {name: getattr(self, name) for name in _FIELDS} | {"statements": [dict(s) for s in self.statements]}
        about = {
            "made_by": f"fedveil {fedveil.__version__}", "size": size, KEY: block | {"settings": dict(self.settings)},
            "source": f"synthetic ({self.mode} generator {self.generator[:12]} that learnt from {self.learnt_from})",
        }  # fmt: skip
        return json.dumps(about, sort_keys=True, allow_nan=False)


def is_synthetic(archive: Archive) -> bool:
    """Return whether a packed file says that its faces are synthetic, whatever else it says."""
    try:
        return KEY in json.loads(archive.words(FIELD, 1)[0])
    except (KeyError, ValueError, TypeError, RecursionError):
        return False


def of_archive(archive: Archive) -> Provenance:
    """Return what the set in an opened file was made from.

    Raises:
        fedveil.checks.UserError: naming the file, what is wrong with its account, and the remedy.
    """
    try:
        archive.require(FIELD)
        block = json.loads(archive.words(FIELD, 1)[0])[KEY]
        if not isinstance(block, dict) or set(block) != set(_FIELDS) or not isinstance(block["statements"], list):
            raise ValueError(f"expected the fields {', '.join(_FIELDS)}")
        return Provenance(**{**block, "statements": tuple(block["statements"])})
    except (KeyError, ValueError, TypeError, RecursionError) as error:  # a UserError is a ValueError
        reason = f"it has no block {KEY!r}" if isinstance(error, KeyError | IndexError) else str(error) or "damaged"
        raise checks.UserError(
            f"{archive.path} does not say what its faces were made from ({printable(reason)}), so nothing could be "
            "claimed of what is computed from them. Make the set with `fedveil synthesize`; photographs of people are "
            "read with data=packed."
        ) from error


def of_file(path: str, setting: str) -> Provenance:
    """Return what the set in a packed file was made from; no face is read."""
    return of_archive(open_archive(path, (FIELD,), setting))
