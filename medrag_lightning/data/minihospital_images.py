"""How the synthetic hospital looks: 64 x 64 RGB images whose every trait is named, drawn from a seed. Not medical images.

A picture shows four traits. The *modality* is the background, the *dye* is the colour of the frame, the *finding* is a
colour and a texture that fill one half, and which half is the *side*; a marker in the lower corner of that half is
coloured by it. Colour x texture on a coarse grid is what a one-million-parameter reader learns from scratch within a
minute; shapes are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMAGE_PX = 64
FRAME_PX = 2
PERIOD_PX = 16  # of the stripes
NOISE = 8.0  # standard deviation, grey levels of 255
CLEAR, FAINT = 0.9, 0.115  # share of a finding's colour that is added to the background

MODALITIES = ("x-ray", "ct", "ultrasound", "fundus")
SIDES = ("left", "right")
_MARKER_PX, _MARKERS = 12, ((255, 255, 0), (0, 255, 255))  # a side marker, as radiographs have: what tells the side at a glance
DYES = {
    "amber": (230, 150, 0),
    "teal": (0, 170, 160),
    "violet": (150, 60, 220),
    "ivory": (225, 225, 205),
    "lime": (130, 220, 0),
    "rose": (240, 90, 150),
}
_COLOURS = ((230, 60, 60), (60, 210, 80), (70, 90, 240), (190, 190, 190))
_TEXTURES = ("solid", "rows", "columns")
_FINDING_NAMES = ["nodule", "effusion", "edema", "cyst", "mass", "scar", "ulcer", "stone", "clot", "tear", "polyp", "lesion"]
FINDINGS = {
    name: (_COLOURS[number // len(_TEXTURES)], _TEXTURES[number % len(_TEXTURES)]) for number, name in enumerate(_FINDING_NAMES)
}


@dataclass(frozen=True, slots=True)
class Look:
    """What is drawn. `strength` is the contrast of the finding (`CLEAR`, `FAINT`); `noise` numbers the random grain."""

    modality: str
    finding: str
    dye: str
    side: str
    strength: float
    noise: int


def draw(look: Look, seed: int) -> NDArray[np.uint8]:
    """The picture of `look`: (64, 64, 3) uint8, the same bytes for the same `look` and `seed`."""
    rng = np.random.default_rng([seed, 7, look.noise])
    picture = _background(look.modality) + rng.normal(0.0, NOISE, (IMAGE_PX, IMAGE_PX, 3))
    colour, texture = FINDINGS[look.finding]
    half = IMAGE_PX // 2
    start = half * SIDES.index(look.side)
    picture[:, start : start + half] += _texture(texture)[..., None] * np.array(colour, float) * look.strength
    corner = start if look.side == "left" else IMAGE_PX - _MARKER_PX
    picture[-_MARKER_PX:, corner : corner + _MARKER_PX] = np.array(_MARKERS[SIDES.index(look.side)], float)
    frame = np.ones((IMAGE_PX, IMAGE_PX), bool)
    frame[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX] = False
    picture[frame] = np.array(DYES[look.dye], float)
    return picture.round().clip(0, 255).astype(np.uint8)


def _background(modality: str) -> NDArray[np.float64]:
    """(64, 64, 3) grey levels, dark enough that a finding shows on it."""
    y, x = np.mgrid[:IMAGE_PX, :IMAGE_PX].astype(float)
    radius = np.hypot(y - IMAGE_PX / 2 + 0.5, x - IMAGE_PX / 2 + 0.5)
    level: NDArray[np.float64]
    if modality == "x-ray":
        level, tint = 10.0 + 40.0 * y / IMAGE_PX, (1.0, 1.0, 1.0)
    elif modality == "ct":
        level, tint = np.where(radius < 26, 45.0, 10.0), (1.0, 1.0, 1.0)
    elif modality == "ultrasound":
        level, tint = np.where((x + y) % 8 < 4, 40.0, 15.0), (0.4, 0.7, 1.2)
    elif modality == "fundus":
        level, tint = np.where(radius < 30, 45.0, 10.0), (1.4, 0.7, 0.2)
    else:
        raise ValueError(f"unknown modality {modality!r}; the synthetic hospital has {', '.join(MODALITIES)}")
    coloured: NDArray[np.float64] = level[..., None] * np.array(tint)
    return coloured


def _texture(texture: str) -> NDArray[np.bool_]:
    """(64, 32) mask of the pixels that a texture colours."""
    y, x = np.mgrid[:IMAGE_PX, : IMAGE_PX // 2]
    masks: dict[str, NDArray[np.bool_]] = {
        "solid": np.ones(y.shape, bool),
        "rows": y % PERIOD_PX < PERIOD_PX // 2,
        "columns": x % PERIOD_PX < PERIOD_PX // 2,
    }
    return masks[texture]
