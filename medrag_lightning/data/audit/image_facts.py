"""What one look at an image tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.records import ImageRef

THUMBNAIL_PX = 64


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of one image; all but `ref`, `fault` and `kind` is None where it cannot be opened.

    Attributes:
        fault: why it is refused, as one sentence that names no file; None for a sound image.
        size_px: width and height, after EXIF orientation.
        bytes_sha256: of the file; of the item's bytes for an item of an array.
        pixels_sha256: of shape and RGB pixels: equal for one picture in two lossless formats.
        thumbnail_HW: grey, `THUMBNAIL_PX` each way (proportions are lost), averaged over areas.
        kind: in snake case, of the fault or, where there is none, of what deserves a warning (``image_misnamed``,
            ``image_blank``).
        remark: the warning's sentence.
    """

    ref: ImageRef
    fault: str | None = None
    size_px: tuple[int, int] | None = None
    bytes_sha256: str | None = None
    pixels_sha256: str | None = None
    thumbnail_HW: NDArray[np.uint8] | None = None
    kind: str | None = None
    remark: str | None = None
