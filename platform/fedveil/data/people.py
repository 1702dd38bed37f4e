"""Imaginary people: what stays the same in every picture of a person, and what changes from picture to picture.

An identity is geometry only (proportions, hairline, moles). Every colour (skin, hair, eyes, lips, clothes, background,
light) is drawn anew for each image, so no colour tells who somebody is. Units: half the image's width is 1, the head's
centre is (0, 0), y points down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedveil.randomness import public_rng

Parameters = dict[str, NDArray[np.float32]]

# What makes a person: name -> lowest and highest value, uniform in between.
IDENTITY: dict[str, tuple[float, float]] = {
    "head_width": (0.47, 0.64),
    "head_top": (0.66, 0.76),
    "chin": (0.66, 0.86),
    "jaw_square": (0.0, 0.95),
    "jaw_taper": (-0.02, 0.26),
    "ear": (0.07, 0.15),
    "eye_distance": (0.175, 0.30),
    "eye_y": (-0.10, 0.06),
    "eye_width": (0.085, 0.14),
    "eye_aspect": (0.45, 0.85),
    "eye_slant": (-0.30, 0.30),
    "iris": (0.55, 0.8),
    "brow_height": (0.11, 0.21),
    "brow_length": (0.09, 0.19),
    "brow_thick": (0.014, 0.050),
    "brow_arch": (0.0, 0.07),
    "brow_slant": (-0.30, 0.30),
    "nose_length": (0.18, 0.38),
    "nose_width": (0.05, 0.135),
    "mouth_gap": (0.13, 0.23),
    "mouth_width": (0.12, 0.28),
    "lip_upper": (0.015, 0.050),
    "lip_lower": (0.025, 0.075),
    "hairline": (-0.64, -0.34),
    "hair_curve": (-0.9, 1.9),
    "hair_part": (-0.45, 0.45),
    "hair_peak": (-0.13, 0.13),
    "hair_volume": (0.02, 0.17),
    "hair_length": (-0.35, 1.05),
    "mole1_x": (-0.40, 0.40),
    "mole1_y": (0.02, 0.60),
    "mole1_size": (-0.020, 0.036),
    "mole2_x": (-0.40, 0.40),
    "mole2_y": (-0.35, 0.55),
    "mole2_size": (-0.035, 0.032),
}

# What a picture adds: name -> centre and largest deviation at difficulty 1, uniform in between.
PICTURE: dict[str, tuple[float, float]] = {
    "yaw": (0.0, 0.42),
    "pitch": (0.0, 0.28),
    "roll": (0.0, 0.12),
    "zoom": (1.0, 0.06),
    "shift_x": (0.0, 0.04),
    "shift_y": (0.0, 0.04),
    "light_x": (0.0, 0.42),
    "light_y": (-0.06, 0.16),
    "exposure": (0.96, 0.12),
    "smile": (0.035, 0.065),
    "brow_raise": (0.01, 0.025),
    "gaze": (0.0, 0.35),
    "eyes_open": (0.95, 0.28),
}

# Events that happen in a picture with this probability at difficulty 1.
CHANCES: dict[str, float] = {
    "glasses": 0.16,
    "sunglasses": 0.05,
    "hat": 0.12,
    "mouth_opens": 0.35,
    "beard": 0.10,
    "old": 0.25,
}

_SKIN = np.array([[255, 224, 200], [241, 194, 158], [222, 170, 128], [190, 134, 94], [141, 92, 62], [96, 62, 44]])
_HAIR = np.array(
    [[38, 30, 30], [70, 46, 34], [112, 72, 42], [158, 104, 52], [214, 172, 100], [176, 76, 44], [120, 116, 120]]
)
_EYES = np.array([[72, 46, 30], [94, 66, 36], [64, 104, 72], [58, 100, 150], [104, 116, 126]])


def parameters(seed: int, people: Iterable[int], pictures: Iterable[int], difficulty: float) -> Parameters:
    """Return the parameters of pictures (people[b], pictures[b]): scalars as (B,), colours 0..255 as (B, 3).

    The draw depends on (seed, person, picture, difficulty) only, never on the batch.
    """
    rows = [
        {**_person(seed, int(who)), **_picture(public_rng(seed, "picture", int(who), int(which)), difficulty)}
        for who, which in zip(people, pictures, strict=True)
    ]
    return {name: np.asarray([row[name] for row in rows], np.float32) for name in rows[0]}


def _person(seed: int, who: int) -> dict[str, float]:
    share = public_rng(seed, "person", who).random(len(IDENTITY))
    return {name: low + (high - low) * float(u) for (name, (low, high)), u in zip(IDENTITY.items(), share, strict=True)}


def _picture(rng: np.random.Generator, difficulty: float) -> dict[str, float | NDArray[np.float64]]:
    found: dict[str, float | NDArray[np.float64]] = {}
    deviation = rng.uniform(-1, 1, len(PICTURE)) * difficulty
    for (name, (centre, spread)), u in zip(PICTURE.items(), deviation, strict=True):
        found[name] = centre + spread * float(u)
    for (name, chance), u in zip(CHANCES.items(), rng.random(len(CHANCES)), strict=True):
        found[name] = float(u < min(1.0, chance * difficulty))
    for turn in ("yaw", "pitch", "roll"):
        angle = float(found.pop(turn))
        found[f"sin_{turn}"], found[f"cos_{turn}"] = math.sin(angle), math.cos(angle)
    found["mouth_open"] = found.pop("mouth_opens") * float(rng.uniform(0.02, 0.11))
    old = float(found.pop("old")) * float(rng.uniform(0.4, 1.0))
    found["age"] = old
    # Colours do not depend on the difficulty: they never carry identity, not even in the easiest set.
    hair = _between(_HAIR, rng)
    found["skin"] = _between(_SKIN, rng) * rng.uniform(0.97, 1.03, 3)
    found["hair"] = hair + (np.array([190.0, 190.0, 194.0]) - hair) * 0.8 * old
    found["eye_colour"] = _between(_EYES, rng)
    found["lips"] = found["skin"] * np.array([0.86, 0.56, 0.56]) * rng.uniform(0.88, 1.12, 3)
    found["shirt"] = _pastel(rng, 0.25, 0.85)
    found["wall"] = _pastel(rng, 0.45, 1.0)
    found["wall2"] = _pastel(rng, 0.45, 1.0)
    found["accessory"] = _pastel(rng, 0.15, 0.85)
    warm, green = rng.uniform(-0.08, 0.08), rng.uniform(-0.025, 0.025)
    found["tint"] = np.array([1 + warm, 1 + green, 1 - warm])
    found["wall_place"] = rng.uniform(-1, 1, 2)
    return found


def _between(palette: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a colour between two neighbours of the palette."""
    place = float(rng.uniform(0, len(palette) - 1))
    below = int(place)
    return np.asarray(palette[below] + (place - below) * (palette[below + 1] - palette[below]), np.float64)


def _pastel(rng: np.random.Generator, low: float, high: float) -> NDArray[np.float64]:
    """Return a colour of one hue, moderately saturated, of a brightness in low..high."""
    grey, colour = float(rng.uniform(low, high)), rng.uniform(0, 1, 3)
    return np.asarray(255 * grey * (1 - 0.5 * (colour.max() - colour)), np.float64)
