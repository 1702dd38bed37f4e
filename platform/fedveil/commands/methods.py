"""List protections, models, heads, data sources and aggregations.

What there is to choose from, a line per method, and what the protections cost on this machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import textwrap
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from fedveil import checks, console
from fedveil.configuration import plugins
from fedveil.data.sources.procedural import draw_faces
from fedveil.randomness import SecretStream, test_key

EXAMPLES = """examples:
  fedveil methods                    # all of them, with what they are
  fedveil methods --cost             # what each protection costs, measured now
  fedveil methods --cost --size 32   # the same for images of 32 x 32 pixels
"""

SIZE = 112
"""Height and width of aligned faces in the papers, pixels."""

_PEOPLE, _PICTURES = 4, 2
_ENOUGH = 1.0  # seconds of measuring after which no further image is timed
_QUICK = {"fit_steps": 1}  # what training only does to the values of a state changes no cost


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one image costs under one protection.

    Attributes:
        shape: channels, height and width of what leaves.
        payload: bytes of what leaves.
        parameters: numbers in the public state that every client needs beside the recogniser.
        seconds: of `release`, one image at a time; the median after a first one, which fills caches.
    """

    shape: tuple[int, int, int]
    payload: int
    parameters: int
    seconds: float


def listing() -> str:
    """Return the methods of every group with the first line of their documentation.

    >>> "  arcface " in listing()
    True
    """
    lines = []
    for group in plugins.GROUPS:
        lines.append(f"{group}=")
        lines += [_listed(name, plugins.summary(group, name)) for name in plugins.names(group)]
    lines.append("\nBytes, parameters and time per image: fedveil methods --cost")
    return "\n".join(lines)


def _listed(name: str, text: str) -> str:
    return textwrap.fill(f"  {name:<13} {text}", console.WIDTH, subsequent_indent=16 * " ", break_on_hyphens=False)


def measure(protection: Any, size: int) -> Cost:
    """Return the cost of one image of `size` x `size` pixels, timed now on procedural faces.

    Raises:
        UserError: if the protection cannot serve this size.
    """
    faces = draw_faces(1, 0, identities=_PEOPLE, images_per_identity=_PICTURES, size=size)
    images = faces.images(np.arange(len(faces)))
    shape = protection.representation((size, size))
    state: Mapping[str, torch.Tensor] = protection.fit(images, np.asarray(faces.labels), 1)
    seconds: list[float] = []
    for index, image in enumerate(torch.from_numpy(images)):
        stream = SecretStream(test_key(1, "methods", index))
        start = time.perf_counter()
        protection.release(image[None], state, [stream])
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > _ENOUGH:
            break
    parameters = sum(tensor.numel() for tensor in state.values())
    return Cost(shape, protection.payload((size, size)), parameters, statistics.median(seconds[1:] or seconds))


def costs(size: int = SIZE) -> Iterator[str]:
    """Yield the lines of a table of all protections with their defaults, each as soon as it is measured; 80 columns.

    A protection that cannot serve this size has a row of dashes, and its reason stands under the table.
    """
    checks.positive(size=size)
    threads = torch.get_num_threads()
    yield f"one image of {size} x {size} pixels; release() timed now, {threads} thread{'s' * (threads > 1)}"
    yield _row("protection", "leaves", "payload", "extra parameters", "release")
    notes = []
    for name in plugins.names("protection"):
        known = {field.name for field in dataclasses.fields(plugins.method("protection", name))}
        protection = plugins.build("protection", name, {key: _QUICK[key] for key in _QUICK if key in known})
        try:
            cost = measure(protection, size)
        except checks.UserError as error:
            notes.append(f"{name}: {error}")
            yield _row(name, "-", "-", "-", "-")
            continue
        shape = "x".join(map(str, cost.shape))
        yield _row(name, shape, _bytes(cost.payload), f"{cost.parameters:,}", f"{1000 * cost.seconds:,.2f} ms")
    yield from map(console.wrapped, notes)


def _row(name: str, shape: str, payload: str, parameters: str, milliseconds: str) -> str:
    return f"{name:<16}  {shape:<12}  {payload:>9}  {parameters:>16}  {milliseconds:>13}".rstrip()


def _bytes(count: int) -> str:
    """Return decimal kB or MB.

    >>> _bytes(1_354_752), _bytes(150_528)
    ('1.35 MB', '150.5 kB')
    """
    return f"{count / 1e6:.2f} MB" if count >= 10**6 else f"{count / 1e3:.1f} kB"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--cost", action="store_true", help="measure what each protection costs for one image instead")
    parser.add_argument("--size", type=int, metavar="N", help="with --cost: height and width in pixels (default 112)")


def run(chosen: argparse.Namespace) -> int:
    """Print the list, or the costs as they are measured."""
    if chosen.size is not None and not chosen.cost:
        raise checks.UserError(f"--size {chosen.size} is the size of a measured image; add --cost.")
    if not chosen.cost:
        console.tell(listing())
        return 0
    for line in costs(SIZE if chosen.size is None else chosen.size):
        console.tell(line)
    return 0
