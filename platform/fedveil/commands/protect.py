"""Show what a protection makes of your images, as one PNG.

Original, representation, and what it shows a person.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedveil import checks, console
from fedveil.data import decode
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.pictures import faces
from fedveil.privacy import statements
from fedveil.privacy.statements import Statement

SHOWN = "NOT PRIVATE, the noise of this picture is drawn from the public seed"

EXAMPLES = """examples:
  fedveil protect face.jpg protection=dctdp
  fedveil protect faces/ protection=dctdp protection.total_epsilon=8 --out a.png
"""


def protect(federation: Federation, source: Path, out: Path, count: int) -> str:
    """Write the picture of an image, or of the first `count` images of a folder, and say what was done.

    The same words draw the same picture, so its noise protects nobody.

    Raises:
        fedveil.checks.UserError: nothing readable at `source`; the message names the file.
    """
    checks.positive(count=count)
    settings, public, size = federation.settings, federation.split.public, federation.size
    images, _, problems = decode.pictures(source, size[0], count)
    protection = federation.protection
    state = protection.fit(public.images(), public.labels, settings.seed)
    faces.face_grid(out, faces.stages(protection, state, images, settings.seed))
    event = federation.release_event(state)
    lines = [f"{out}: {len(images)} images at {size[0]}x{size[1]} through {settings.protection.name}"]
    lines += [f"left out: {problem}" for problem in problems]
    return "\n".join([*lines, *_claims(claims.planned(federation, event).statements)])


def _claims(planned: Sequence[Statement]) -> list[str]:
    """Return what holds of the picture, whose noise anybody can draw again, and what a run would claim."""
    drawn = [statements.void(one, SHOWN) for one in planned if one.unit != "client"]
    lines = [statements.claim(one) for one in drawn]
    if drawn != [one for one in planned if one.unit != "client"]:
        lines += ["Do not publish it for real faces. A run draws secret noise and keeps it; there:"]
        lines += [f"  {statements.claim(one)}" for one in planned if one.epsilon is not None]
    return lines


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("images", type=Path, metavar="IMAGE_OR_FOLDER", help="an image file or a folder of them")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. protection.total_epsilon=8")
    parser.add_argument("--out", type=Path, default=Path("protected.png"), help="picture to write (protected.png)")
    parser.add_argument("--count", type=int, default=6, help="images of a folder to show (default 6)")


def run(chosen: argparse.Namespace) -> int:
    """Write the picture and say what was done."""
    console.tell(protect(Federation.of(chosen.words), chosen.images, chosen.out, chosen.count))
    return 0
