"""Draw faces from parameters: soft anti-aliased shapes, layer by layer, for a whole batch at once.

Shapes are signed distances (negative inside) in units of half the image; an edge is one pixel wide. Pixels use only
correctly rounded operations (+, -, *, /, sqrt), so a picture does not depend on the batch it is drawn in. Head turns
are drawn in 2.5 dimensions: features slide over an ellipsoid that bulges out of the head's outline.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedveil.data.people import Parameters

Field: TypeAlias = NDArray[np.floating[Any]]
_BULGE = 0.30


def draw(parameters: Parameters, size: int) -> NDArray[np.uint8]:
    """Return the pictures (B, 3, size, size) of `people.parameters`."""
    p: dict[str, Field] = {
        name: value[:, None, None] if value.ndim == 1 else value[:, :, None, None] for name, value in parameters.items()
    }
    axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    grid_y, grid_x = np.meshgrid(axis, axis, indexing="ij")
    picture = _Picture(p, grid_x[None], grid_y[None], 2.0 / size)
    picture.background()
    picture.body()
    picture.head()
    picture.eyes()
    picture.nose_and_mouth()
    picture.marks()
    picture.hair()
    picture.accessories()
    return picture.finish()


class _Picture:
    """The canvas (B, 3, H, W) in 0..255 and the coordinate fields that the layers share."""

    def __init__(self, p: dict[str, Field], grid_x: Field, grid_y: Field, pixel: float) -> None:
        self.p, self.grid_x, self.grid_y = p, grid_x, grid_y
        cos, sin = p["cos_roll"], p["sin_roll"]
        moved_x, moved_y = (grid_x - p["shift_x"]) / p["zoom"], (grid_y - p["shift_y"]) / p["zoom"]
        self.pixel = (np.float32(pixel) / p["zoom"]).astype(np.float32)
        self.x: Field = cos * moved_x + sin * moved_y
        self.y: Field = cos * moved_y - sin * moved_x
        self.head_distance, radius = self._outline(0.0)
        self.depth: Field = np.maximum(np.float32(0), 1 - radius)
        bulge = np.float32(_BULGE) * self.depth
        # Slide the features: u, v are coordinates on the face, right of which is the turn's side.
        self.u: Field = self.x - p["sin_yaw"] * bulge
        self.v: Field = self.y - p["sin_pitch"] * bulge
        self.au: Field = np.abs(self.u)
        self.side: Field = np.sign(self.u)
        self.canvas: Field = np.empty((len(cos), 3, *grid_x.shape[1:]), np.float32)

    def _outline(self, grow: float | Field) -> tuple[Field, Field]:
        """Return the distance to the head's outline, grown by `grow`, and the squared radius (1 on the outline)."""
        p = self.p
        height = np.where(self.y < 0, p["head_top"], p["chin"]) + grow
        t = self.y / height
        low = np.maximum(t, 0)
        width = (p["head_width"] + grow) * (1 - p["jaw_taper"] * low)
        across, t2 = (self.x / width) ** 2, t * t
        square = np.where(self.y > 0, p["jaw_square"], np.float32(0.25))
        radius = across + t2 * (1 - square + square * t2)
        return (np.sqrt(radius) - 1) * np.minimum(width, height), radius

    def paint(self, distance: Field, colour: Field, strength: float | Field = 1.0, soft: float = 1.0) -> None:
        """Blend `colour` over where `distance` is negative; `soft` widens the edge, in pixels."""
        self._blend(np.clip(np.float32(0.5) - distance / (self.pixel * np.float32(soft)), 0, 1) * strength, colour)

    def glow(self, distance: Field, reach: float | Field, colour: Field, strength: float | Field) -> None:
        """Blend `colour` with an edge that fades over `reach` (image units, not pixels)."""
        self._blend(np.clip(-distance / reach, 0, 1) * strength, colour)

    def _blend(self, alpha: Field, colour: Field) -> None:
        self.canvas += alpha[:, None] * (colour - self.canvas)

    def background(self) -> None:
        p, place = self.p, self.p["wall_place"]
        slope = np.clip(0.5 + 0.35 * (place[:, 0] * self.grid_x + place[:, 1] * self.grid_y), 0, 1)
        self.canvas[:] = p["wall"] + slope[:, None] * (p["wall2"] - p["wall"])
        spot = _ellipse(self.grid_x - place[:, 0], self.grid_y - place[:, 1], 0.75, 0.75)
        self.glow(spot, 0.5, np.float32(0.5) * (p["wall"] + 255), 0.55)

    def body(self) -> None:
        p = self.p
        # Long hair hangs behind the neck; its length is a person's, zero or less is short hair.
        length = p["hair_length"]
        drop = np.maximum(length, np.float32(0.02))
        behind = _ellipse(self.x, self.y - drop * 0.32, p["head_width"] + p["hair_volume"] + 0.05, 0.62 + drop * 0.42)
        self.paint(np.where(length > 0, behind, np.float32(1)), p["hair"] * np.float32(0.72))
        skin = p["skin"]
        neck = np.maximum(np.abs(self.x) - p["head_width"] * 0.46, 0.35 - self.y)
        self.paint(neck, skin * np.float32(0.74))
        self.paint(_ellipse(self.x, self.y - 1.28, 0.92, 0.44), p["shirt"])
        self.paint(_ellipse(self.x, self.y - 0.86, p["head_width"] * 0.46, 0.13), skin * np.float32(0.74))
        ear_y = self.y - p["eye_y"] - 0.10
        ears = _ellipse(np.abs(self.x + 0.10 * p["sin_yaw"]) - p["head_width"], ear_y, p["ear"], p["ear"] * 1.45)
        self.paint(ears, skin * np.float32(0.90))
        self.paint(ears + 0.045, skin * np.float32(0.76))

    def head(self) -> None:
        p = self.p
        nx, ny = self.x / p["head_width"], self.y / p["chin"]
        shade = 0.86 + 0.17 * self.depth + p["light_x"] * 0.30 * nx + p["light_y"] * 0.5 * ny
        self.skin: Field = p["skin"] * shade[:, None]
        self.paint(self.head_distance, self.skin)
        blush = _ellipse(self.au - p["eye_distance"] * 1.25, self.v - p["eye_y"] - 0.24, 0.17, 0.12)
        self.glow(blush, 0.12, self.skin * _colour(1.06, 0.80, 0.80), 0.55)

    def eyes(self) -> None:
        p = self.p
        out = self.au - p["eye_distance"]
        level = self.v - p["eye_y"] + p["eye_slant"] * out
        width = p["eye_width"]
        height = width * p["eye_aspect"] * np.maximum(p["eyes_open"], np.float32(0.1))
        eye = _ellipse(out, level, width, height)
        self.glow(_ellipse(out, level, width * 1.7, width * 1.5), width, self.skin * np.float32(0.72), 0.45)
        self.paint(_ellipse(out, level + 0.018, width * 1.14, height * 1.16 + 0.012), _colour(52, 36, 36), 0.85)
        self.paint(eye, _colour(250, 248, 244))
        radius = width * p["iris"] * np.float32(0.82)
        gaze = out - self.side * p["gaze"] * width * 0.5
        round_ = np.sqrt(gaze * gaze + level * level)
        self.paint(np.maximum(eye, round_ - radius), p["eye_colour"])
        self.paint(np.maximum(eye, round_ - radius * 0.52), _colour(18, 14, 16))
        glint_x, glint_y = gaze + self.side * radius * 0.35, level + radius * 0.38
        self.paint(np.maximum(eye, np.sqrt(glint_x**2 + glint_y**2) - radius * 0.30), _colour(255, 255, 255), 0.9)
        along = (out - 0.01) / p["brow_length"]
        arc = p["eye_y"] - p["brow_height"] - p["brow_raise"] - p["brow_arch"] * (1 - along * along)
        across = np.abs(self.v - arc + p["brow_slant"] * out) - p["brow_thick"] * (1 - 0.35 * along)
        self.paint(np.maximum(across, (np.abs(along) - 1) * p["brow_length"]), p["hair"] * np.float32(0.62), 0.92)

    def nose_and_mouth(self) -> None:
        p = self.p
        tip = p["eye_y"] + p["nose_length"]
        # The nose sticks out, so it slides further than the face when the head turns.
        u, v = self.u - 0.10 * p["sin_yaw"], self.v - 0.06 * p["sin_pitch"]
        width = p["nose_width"]
        lit = np.where(p["light_x"] > 0, np.float32(-1), np.float32(1))
        ridge = np.abs(u - lit * width * 0.55) - 0.012
        ridge = np.maximum(ridge, np.maximum(p["eye_y"] - 0.02 - v, v - tip + 0.02))
        self.glow(ridge - 0.05, 0.06, self.skin * np.float32(0.72), 0.55)
        self.glow(_ellipse(u, v - tip - 0.025, width * 1.35, 0.06), 0.05, self.skin * np.float32(0.62), 0.75)
        self.glow(_ellipse(u, v - tip + 0.025, width, 0.075), 0.05, self.skin * np.float32(1.10), 0.9)
        nostrils = _ellipse(np.abs(u) - width * 0.52, v - tip - 0.018, width * 0.25, 0.018)
        self.paint(nostrils, self.skin * _colour(0.42, 0.34, 0.34), 0.85)
        half = p["mouth_width"] * (1 + np.maximum(p["smile"], 0))
        middle = tip + p["mouth_gap"] + 0.25 * p["mouth_open"]
        across = self.u / half
        fall = 1 - across * across
        curve = self.v - middle + p["smile"] * (0.4 - fall) * 1.4
        full = np.maximum(fall, 0)
        gap = p["mouth_open"] * full
        bow = 1 - 0.30 * np.maximum(0, 1 - np.abs(across) * 4)
        upper, lower = p["lip_upper"] * full * bow, p["lip_lower"] * full
        edge = (np.abs(across) - 1) * half
        self.mouth: Field = np.maximum(np.maximum(-curve - upper - gap, curve - lower - gap), edge)
        self.paint(self.mouth, p["lips"])
        inside = np.maximum(np.abs(curve) - np.maximum(gap, np.float32(0.012)), edge)
        self.paint(inside, _colour(86, 34, 36))
        teeth = np.maximum(np.abs(curve + gap * 0.45) - gap * 0.5, edge + 0.03)
        self.paint(np.where(p["mouth_open"] > 0.03, teeth, np.float32(1)), _colour(246, 242, 234), 0.95)

    def marks(self) -> None:
        p = self.p
        for mole in ("mole1", "mole2"):
            dx, dy = self.u - p[f"{mole}_x"], self.v - p[f"{mole}_y"]
            spot = np.sqrt(dx * dx + dy * dy) - p[f"{mole}_size"]
            self.paint(np.where(p[f"{mole}_size"] > 0.008, spot, np.float32(1)), p["skin"] * _colour(0.42, 0.33, 0.30))
        age, tip = p["age"], p["eye_y"] + p["nose_length"]
        fold = np.abs(self.au - p["nose_width"] - 0.05 - 0.55 * (self.v - tip)) - 0.012
        fold = np.maximum(fold, np.maximum(tip - self.v, self.v - tip - p["mouth_gap"]))
        self.paint(fold, self.skin * np.float32(0.70), 0.75 * age)
        bag = np.abs(_ellipse(self.au - p["eye_distance"], self.v - p["eye_y"] - 0.03, 0.15, 0.11)) - 0.010
        self.paint(np.maximum(bag, p["eye_y"] + 0.06 - self.v), self.skin * np.float32(0.72), 0.7 * age)
        for row in (0.07, 0.14):
            line = self.v - p["eye_y"] + p["brow_height"] + row + 0.10 * self.u * self.u
            self.paint(np.maximum(np.abs(line) - 0.009, self.au - 0.26), self.skin * np.float32(0.76), 0.7 * age)
        cheek = p["eye_y"] + 0.30 + 0.25 * (1 - (self.u / p["head_width"]) ** 2) - self.v
        beard = np.maximum(np.maximum(self.head_distance - 0.02, cheek), 0.03 - self.mouth)
        self.paint(np.where(p["beard"] > 0, beard, np.float32(1)), p["hair"] * np.float32(0.8), 0.92, soft=1.6)

    def hair(self) -> None:
        p = self.p
        grown, _ = self._outline(p["hair_volume"])
        # Hair may grow below the head's centre line only at the sides.
        peak = p["hair_peak"] * np.maximum(0, 1 - self.au * 5)
        line = p["hairline"] + p["hair_curve"] * self.u * self.u + p["hair_part"] * self.u + peak
        lowest = np.maximum(p["hair_length"], np.float32(-0.12))
        cut = np.maximum(self.v - line, self.y - lowest)
        sides = np.maximum(np.maximum(0.02 - np.abs(self.x) + p["head_width"] * 0.90, self.y - lowest), 0.3 * cut)
        shape = np.maximum(grown, np.minimum(cut, sides))
        shine = 0.80 + 0.35 * np.clip(1 - np.abs(self.y + 0.62 + 0.2 * self.x) * 4, 0, 1) + p["light_x"] * 0.3 * self.x
        self.paint(shape, p["hair"] * shine[:, None])

    def accessories(self) -> None:
        p = self.p
        out, level = self.au - p["eye_distance"], self.v - p["eye_y"] - 0.02
        lens = _ellipse(out, level, 0.17, 0.145)
        bridge = np.maximum(np.abs(level + 0.03) - 0.013, self.au - p["eye_distance"] + 0.16)
        rim = np.minimum(np.abs(lens) - 0.013, bridge)
        temple = np.maximum(np.abs(level + 0.04) - 0.013, np.maximum(0.16 - out, self.head_distance))
        rim = np.minimum(rim, temple)
        frame = p["accessory"] * np.float32(0.45)
        dark = p["sunglasses"]
        self.paint(np.where(dark > 0, lens, np.float32(1)), _colour(38, 36, 46), 0.93)
        self.paint(np.where(np.maximum(dark, p["glasses"]) > 0, rim, np.float32(1)), frame)
        grown, _ = self._outline(p["hair_volume"] * 0.5 + 0.06)
        cap = np.maximum(grown, self.v - p["hairline"] + 0.02 - 0.25 * self.u * self.u)
        band = np.maximum(cap, -(self.v - p["hairline"] + 0.14 - 0.25 * self.u * self.u))
        hat = p["hat"] > 0
        self.paint(np.where(hat, cap, np.float32(1)), p["accessory"])
        self.paint(np.where(hat, band, np.float32(1)), p["accessory"] * np.float32(0.72))

    def finish(self) -> NDArray[np.uint8]:
        light = self.p["tint"] * self.p["exposure"][:, None]
        return np.asarray(np.clip(self.canvas * light + np.float32(0.5), 0, 255), np.uint8)


def _ellipse(x: Field, y: Field, width: float | Field, height: float | Field) -> Field:
    """Return the first-order distance to an axis-parallel ellipse with these half axes."""
    a, b = x / width, y / height
    value = a * a + b * b
    slope = np.sqrt((a / width) ** 2 + (b / height) ** 2) + np.float32(1e-3)
    return np.asarray((value - 1) / (2 * slope), np.float32)


def _colour(red: float, green: float, blue: float) -> Field:
    return np.array([red, green, blue], np.float32)[:, None, None]
