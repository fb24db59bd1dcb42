"""Opens images safely: under declared folders only, of known kinds only, and never decoded before their size is known."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medrag_lightning.artifacts import file_fault, guard_path
from medrag_lightning.data import dicom
from medrag_lightning.data.arrays import ArrayFile
from medrag_lightning.records import ImageRef

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")
KINDS = "PNG, JPEG, TIFF, WebP, DICOM, or an item of an .npz array"
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError),
    *(AttributeError, RecursionError, MemoryError, struct.error, zlib.error),
)
"""What Pillow raises on a damaged file, by format."""


class ImageStore:
    """Opens an `ImageRef` as an RGB image (`interfaces.OpenImage`). Fit for loader workers: pickling drops its cache.

    What an image becomes:

    - EXIF orientation is applied.
    - Transparency is flattened on black; palettes, grey, CMYK and the like become RGB. 16-bit colour keeps its high bytes.
    - Grey images of more than 8 bits are windowed by their own minimum and maximum to 0..255 (a flat image becomes black).
    - DICOM: see `data/dicom.py` (needs the extra ``dicom``).
    - ``file.npz#array/index``: one item of a uint8 array (N, H, W), (N, H, W, 1) or (N, H, W, 3); see `data/arrays.py`.

    Refused, with a ValueError that names the file: paths outside `roots` (symbolic links are followed first), images of more
    than `max_pixels` (read from the header, before any decoding), other kinds of files, damaged files, and files of several
    frames, because which one was meant is not known.
    """

    def __init__(self, roots: Sequence[str | Path], max_pixels: int = 50_000_000) -> None:
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
        self.roots = tuple(Path(root).resolve() for root in roots)
        self.max_pixels = max_pixels
        self._arrays: dict[Path, ArrayFile] = {}

    def __call__(self, ref: ImageRef, least_side_px: int | None = None) -> Image.Image:
        """The image as RGB, fully decoded; for thumbnails a JPEG may be decoded smaller, no side below `least_side_px`."""
        path = self._guard(ref)
        if ref.array is not None:
            return _from_array(self._array_file(path).item(*_item(ref), self.max_pixels))
        if dicom.is_dicom(path):
            dicom.read_size_px(path, self.max_pixels)
            return _from_array(dicom.read_pixels(path))
        with self._open(path) as image:
            try:
                if least_side_px is not None:
                    image.draft(None, (least_side_px, least_side_px))
                image.load()
                upright = ImageOps.exif_transpose(image)
                return to_rgb(upright)
            except (*BROKEN, Image.DecompressionBombError) as error:
                raise ValueError(f"{path}: damaged image: {error}; replace the file or remove its row") from error

    def size_px(self, ref: ImageRef) -> tuple[int, int]:
        """Width and height in pixels from the header alone (EXIF orientation not applied); refuses what opening refuses,
        except damage after the header."""
        path = self._guard(ref)
        if ref.array is not None:
            return self._array_file(path).size_px(*_item(ref), self.max_pixels)
        if dicom.is_dicom(path):
            return dicom.read_size_px(path, self.max_pixels)
        with self._open(path) as image:
            return image.size

    def __getstate__(self) -> dict[str, Any]:
        return {"roots": self.roots, "max_pixels": self.max_pixels, "_arrays": {}}

    def _guard(self, ref: ImageRef) -> Path:
        path = guard_path(ref.path, self.roots)
        if fault := file_fault(path):
            told = f": it {fault}" if path.exists() else ""
            raise ValueError(f"{ref.path}: there is no such image file{told}")
        return path

    def _array_file(self, path: Path) -> ArrayFile:
        if path not in self._arrays:
            self._arrays[path] = ArrayFile(path)
        return self._arrays[path]

    def _open(self, path: Path) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
                image = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ValueError(f"{path}: {error}; more pixels than max_pixels ({self.max_pixels})") from error
        except UnidentifiedImageError as error:
            raise ValueError(f"{path}: not an image of a known kind ({KINDS}), or its header is damaged") from error
        except BROKEN as error:
            raise ValueError(f"{path}: damaged image header: {error}") from error
        try:
            check_pixels(path, *image.size, self.max_pixels)
            _check_single_frame(path, image)
        except ValueError:
            image.close()
            raise
        return image


def check_pixels(path: Path, width_px: int, height_px: int, max_pixels: int) -> None:
    """Raises ValueError when an image is larger than `max_pixels`, or empty."""
    if not 0 < width_px * height_px <= max_pixels:
        raise ValueError(
            f"{path}: {width_px} x {height_px} pixels is outside 1..{max_pixels} (max_pixels); "
            "resize the image or raise the limit"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as RGB: see `ImageStore` for the rules."""
    if image.mode in WIDE_MODES:
        return _from_array(window_to_uint8(np.asarray(image)))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        flat = Image.new("RGBA", image.size, (0, 0, 0, 255))
        flat.alpha_composite(image.convert("RGBA"))
        return flat.convert("RGB")
    return image.convert("RGB")


def window_to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scales values linearly so that their minimum is 0 and their maximum 255; a flat array becomes 0."""
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the image holds values that are not finite numbers")
    low, high = wide.min(), wide.max()
    if low == high:
        return np.zeros(values.shape, np.uint8)
    return np.asarray(np.rint((wide - low) * (255.0 / (high - low))), np.uint8)


def _check_single_frame(path: Path, image: Image.Image) -> None:
    try:
        frames = int(getattr(image, "n_frames", 1))
    except BROKEN as error:
        raise ValueError(f"{path}: damaged image: its frames cannot be counted: {error}") from error
    if frames != 1:
        raise ValueError(f"{path}: {frames} frames in one file; save the frame that is meant as an image of its own")


def _item(ref: ImageRef) -> tuple[str, int]:
    assert ref.array is not None
    assert ref.index is not None
    return ref.array, ref.index


def _from_array(values: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(values).convert("RGB")
