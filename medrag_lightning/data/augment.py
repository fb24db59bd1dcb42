"""Small, label-preserving changes of a query image, drawn by counter so that a resumed run repeats them exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class Augmentation:
    """Random shift and change of brightness and contrast. No flips: laterality is a finding.

    Args:
        shift_share: largest shift along each axis, as a share of the side; the border is repeated, nothing wraps round.
        brightness: largest relative change of brightness.
        contrast: largest relative change of contrast.
    """

    shift_share: float = 0.05
    brightness: float = 0.1
    contrast: float = 0.1

    def __post_init__(self) -> None:
        for name in ("shift_share", "brightness", "contrast"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"augmentation {name} must be in [0, 0.5), got {getattr(self, name)}")

    def apply(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """A changed copy of an RGB image; same size."""
        shift_x, shift_y = (rng.uniform(-self.shift_share, self.shift_share, 2) * image.size).round().astype(int)
        bright, contrast = 1 + rng.uniform(-1, 1, 2) * (self.brightness, self.contrast)
        if shift_x or shift_y:
            pixels = np.asarray(image)
            rows = np.clip(np.arange(pixels.shape[0]) - shift_y, 0, pixels.shape[0] - 1)
            columns = np.clip(np.arange(pixels.shape[1]) - shift_x, 0, pixels.shape[1] - 1)
            image = Image.fromarray(pixels[rows][:, columns])
        return ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(float(bright))).enhance(float(contrast))
