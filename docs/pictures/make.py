"""Draw the README's pictures of faces, faces.png and methods.png: `python docs/pictures/make.py [FOLDER]`; two minutes.

Imaginary people only. The noise comes from a public seed, so the same code draws the same picture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedveil import config
from fedveil.data.sources.procedural import draw_faces
from fedveil.pictures import faces

SIZE, PEOPLE, SEED = 64, 5, 5
BUDGETS = {"100,000": 1e5, "1,000": 1e3, "8": 8.0}
SHOWN = 1e3  # the default budget: its noisy coefficients are drawn, too


METHODS = {
    "dctdp": ["protection.total_epsilon=1000"], "duetface": [], "partialface": [], "minusface": [], "advface": [],
}  # fmt: skip


def budgets() -> dict[str, NDArray[np.uint8]]:
    """Return the picture's rows: faces, what leaves at one budget, and what each budget's release inverts to."""
    public = draw_faces(SEED, 10**9, identities=60, images_per_identity=8, size=SIZE)
    people = draw_faces(SEED, 40, identities=PEOPLE, images_per_identity=1, size=SIZE)
    drawn: dict[str, NDArray[np.uint8]] = {"original": people.images()}
    inverses: dict[str, NDArray[np.uint8]] = {}
    for name, epsilon in BUDGETS.items():
        settings = config.load(["protection=dctdp", f"protection.total_epsilon={epsilon}"])
        protection = config.build(settings, "protection")
        state = protection.fit(public.images(), public.labels, SEED)
        seen = faces.stages(protection, state, people.images(), SEED)
        inverses[f"inverse\nat {name}"] = seen["what it shows"]
        if epsilon == SHOWN:
            drawn[f"what leaves\nat {name}"] = seen["representation"]
    return drawn | inverses


def methods() -> dict[str, NDArray[np.uint8]]:
    """Return the picture's rows: faces, and what each method's release shows to a person without further effort."""
    public = draw_faces(SEED, 10**9, identities=60, images_per_identity=8, size=SIZE)
    people = draw_faces(SEED, 40, identities=PEOPLE, images_per_identity=1, size=SIZE)
    drawn: dict[str, NDArray[np.uint8]] = {"original": people.images()}
    for name, words in METHODS.items():
        protection = config.build(config.load([f"protection={name}", *words]), "protection")
        state = protection.fit(public.images(), public.labels, SEED)
        drawn[name] = faces.stages(protection, state, people.images(), SEED)["what it shows"]
    return drawn


def write(target: Path, rows: dict[str, NDArray[np.uint8]], header: str) -> None:
    """Write a picture with a palette of 256 colours."""
    faces.face_grid(target, rows, header)
    with Image.open(target) as full:
        colours = full.convert("RGB")
    palette = colours.quantize(256, kmeans=3)
    colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Write both pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    header = "Imaginary faces; the noisy coefficients that leave; the inverse transform at three image-level epsilons"
    write(folder / "faces.png", budgets(), header)
    write(folder / "methods.png", methods(), "Imaginary faces, and what each method's release shows as it is")


if __name__ == "__main__":
    main()
