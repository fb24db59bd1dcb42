"""Files that are broken in every way that a look at images must find."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int = 0, width: int = 48, height: int = 40) -> Image.Image:
    """A colourful picture."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def forged_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with no pixel data that could be decoded behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + b"\xff" * 8, b"IEND"]
    packed = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + packed


def flipped(data: bytes, at: float) -> bytes:
    """`data` with 16 bytes overwritten, from a share of its length on."""
    start = int(len(data) * at)
    return data[:start] + bytes(255 - byte for byte in data[start : start + 16]) + data[start + 16 :]


PNG, JPEG = encoded(picture(), "PNG"), encoded(picture(), "JPEG", quality=90)
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "image_corrupt"),
    "zeros.png": (bytes(300), "image_corrupt"),
    "page.jpg": (b"<!DOCTYPE html><html>404</html>", "image_foreign"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "image_foreign"),
    "a.gif.png": (encoded(picture(), "GIF"), "image_foreign"),
    "words.jpg": (b"not an image at all", "image_foreign"),
    "cut.png": (PNG[: len(PNG) // 2], "image_truncated"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "image_truncated"),
    "head.png": (PNG[:20], "image_corrupt"),
    "flipped.png": (flipped(PNG, 0.5), "image_corrupt"),
    "big.png": (forged_png(9000, 9000), "image_oversized"),
    "huge.png": (forged_png(60000, 60000), "image_oversized"),
    "frames.tif": (
        encoded(picture(1), "TIFF", save_all=True, append_images=[picture(2)]),
        "image_multiframe",
    ),
}
"""Name to bytes, and the kind that must be found."""


def write_broken(folder: Path) -> dict[Path, str]:
    """Writes every broken file; gives their kinds."""
    for name, (data, _) in BROKEN.items():
        (folder / name).write_bytes(data)
    return {folder / name: kind for name, (_, kind) in BROKEN.items()}


def write_dicoms(folder: Path, write: Callable[..., Any]) -> dict[Path, str]:
    """Writes broken DICOM files with the writer of the DICOM tests; gives their kinds."""
    import pydicom
    from pydicom.uid import JPEG2000Lossless

    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    for name in ("bare", "syntax", "cut", "report", "frames", "large", "mark", "colour"):
        write(folder / f"{name}.dcm", pixels)
    for name, change in {
        "bare": lambda data: data.__delattr__("PixelData"),
        "report": lambda data: [data.__delattr__(field) for field in ("Rows", "Columns", "PixelData")],
        "frames": lambda data: setattr(data, "NumberOfFrames", 3),
        "large": lambda data: [setattr(data, field, 60000) for field in ("Rows", "Columns")],
        "colour": lambda data: setattr(data, "PhotometricInterpretation", "PALETTE COLOR"),
    }.items():
        data = pydicom.dcmread(folder / f"{name}.dcm")
        change(data)
        data.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    data = pydicom.dcmread(folder / "syntax.dcm")
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f" + bytes(60)])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.save_as(folder / "syntax.dcm", enforce_file_format=True)
    whole = (folder / "cut.dcm").read_bytes()
    (folder / "cut.dcm").write_bytes(whole[:-60])
    (folder / "mark.dcm").write_bytes(whole[132:])
    kinds = {"bare": "dicom_without_pixels", "report": "dicom_without_pixels", "frames": "image_multiframe"}
    kinds |= {"large": "image_oversized", "syntax": "dicom_syntax", "cut": "image_truncated", "mark": "dicom_damaged"}
    kinds |= {"colour": "dicom_unread"}
    return {folder / f"{name}.dcm": kind for name, kind in kinds.items()}
