"""Why an image is refused, found out from the file itself: its kind, its header, its end."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medrag_lightning.data import dicom
from medrag_lightning.data.images import BROKEN, FORMATS
from medrag_lightning.records import ImageRef

HEAD_BYTES = 512
END_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
END_BYTES = 64  # from the end of a file, where its end mark stands
SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
}
FOREIGN = (
    (re.compile(rb"\s*(?:<!doctype html|<html|<\?xml[^>]*>\s*<html)", re.IGNORECASE), "a web page: its download has failed"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer, not the file itself: run git lfs pull"),
    (re.compile(rb"\s*<(?:svg|\?xml)", re.IGNORECASE), "SVG or XML"),
    (re.compile(rb"GIF8"), "a GIF"),
    (re.compile(rb"BM"), "a BMP"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"....ftyp(?:heic|heix|mif1|avif)", re.DOTALL), "HEIC or AVIF"),
    (re.compile(rb"\x00\x00\x00\x0cjP  "), "a JPEG 2000"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive (a NIfTI volume?)"),
    (re.compile(rb"\{"), "JSON text"),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Kind of the fault, a sentence about it that names no file, and the size where the header tells it."""

    kind: str
    what: str
    size_px: tuple[int, int] | None = None


def explain_refusal(ref: ImageRef, error: Exception, max_pixels: int) -> Refusal:
    """Why `ImageStore` refused an image with `error`."""
    path = Path(ref.path)
    if "\0" in ref.path:
        return Refusal("image_outside", "the name of the image holds a NUL character")
    if "outside the declared roots" in str(error):
        return Refusal("image_outside", "the image lies outside the folders that its tables declare")
    try:
        if not path.is_file():
            return Refusal("image_missing", _what_is_there(path))
        if ref.array is not None:
            return Refusal("image_array", without_paths(str(error), path))
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        return _of_file(path, head, error, max_pixels)
    except PermissionError:
        return Refusal("image_unreadable", "the image file may not be read (permission denied)")
    except OSError as trouble:
        return Refusal("image_unreadable", f"the image file cannot be read ({trouble.strerror or type(trouble).__name__})")


def without_paths(message: str, path: Path) -> str:
    """A message without the name of the file that it is about."""
    return message.removeprefix(f"{path}: ").replace(str(path), path.name)


def kind_of_bytes(head: bytes) -> str | None:
    """PNG, JPEG, TIFF, WebP or DICOM by the first bytes of a file; None for others."""
    if head[dicom.MAGIC_AT_BYTE : dicom.MAGIC_AT_BYTE + 4] == b"DICM":
        return "DICOM"
    for magic, kind in ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF")):
        if head.startswith(magic):
            return kind
    return "WebP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def misnamed(suffix: str, head: bytes) -> str | None:
    """Says that a file's name promises another kind than its bytes are; None where they agree."""
    promised, found = SUFFIXES.get(suffix.lower()), kind_of_bytes(head)
    if promised is None or found is None or promised == found:
        return None
    return f"the name ends with {suffix.lower()}, but the file is a {found}"


def _what_is_there(path: Path) -> str:
    if path.is_symlink():
        return "the image is a symbolic link that leads nowhere"
    if path.is_dir():
        return "a folder has the name of the image"
    if path.exists():
        return "the image is not a regular file"
    names = _names(path.parent)
    if path.name.lower() in names:
        return "there is no such image file; one differs from it in capital letters"
    others = sorted(suffix for suffix in SUFFIXES if path.with_suffix(suffix).name.lower() in names)
    return "there is no such image file" + (f"; there is one with the ending {others[0]}" if others else "")


@functools.lru_cache(maxsize=16)
def _names(folder: Path) -> frozenset[str]:
    """The names in a folder, in small letters."""
    try:
        return frozenset(name.lower() for name in os.listdir(folder))  # noqa: PTH208 - names alone, of large folders
    except OSError:
        return frozenset()


def _of_file(path: Path, head: bytes, error: Exception, max_pixels: int) -> Refusal:
    if not head:
        return Refusal("image_corrupt", "the image file is empty (0 bytes)")
    if kind_of_bytes(head) == "DICOM" or path.suffix.lower() in (".dcm", ".dicom"):
        return _of_dicom(path, head, error, max_pixels)
    if kind_of_bytes(head) is None:
        for pattern, name in FOREIGN:
            if pattern.match(head):
                return Refusal("image_foreign", f"the file is {name}")
        if not head.strip(b"\0"):
            return Refusal("image_corrupt", "the image file holds nothing but zeros")
        return Refusal("image_foreign", "the file is not an image of a known kind")
    return _of_picture(path, error, max_pixels)


def _of_picture(path: Path, error: Exception, max_pixels: int) -> Refusal:
    try:
        with Image.open(path, formats=FORMATS) as image:
            size, frames, kind = image.size, int(getattr(image, "n_frames", 1)), str(image.format)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Refusal("image_oversized", f"the image has more than {max_pixels} pixels")
    except (UnidentifiedImageError, *BROKEN):
        return Refusal("image_corrupt", "the header of the image is damaged")
    if not 0 < size[0] * size[1] <= max_pixels:
        return Refusal("image_oversized", f"the image has {size[0]} x {size[1]} pixels, more than {max_pixels}", size)
    if frames != 1:
        return Refusal("image_multiframe", f"the file holds {frames} frames", size)
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - END_BYTES))
        tail = stream.read()
    mark = END_MARKS.get(kind)
    if (mark is not None and mark not in tail) or "truncated" in str(error).lower():
        return Refusal("image_truncated", f"the {kind} file is cut short after {path.stat().st_size} bytes", size)
    return Refusal("image_corrupt", f"the {kind} data are damaged ({size[0]} x {size[1]} pixels)", size)


def _of_dicom(path: Path, head: bytes, error: Exception, max_pixels: int) -> Refusal:
    if importlib.util.find_spec("pydicom") is None:
        return Refusal("dicom_unread", "DICOM files need pydicom, which is not installed")
    if kind_of_bytes(head) != "DICOM":
        return Refusal("dicom_damaged", "the name promises DICOM, but the file lacks the DICM mark")
    try:
        header = dicom.read_header(path)
    except ValueError:
        return Refusal("dicom_damaged", "the header of the DICOM file is damaged")
    if "Rows" not in header or "Columns" not in header:
        return Refusal(
            "dicom_without_pixels", "the DICOM file holds no image (no Rows and Columns: a report or a structure set?)"
        )
    try:
        size = int(header["Columns"]), int(header["Rows"])
        frames = int(header.get("NumberOfFrames", 1))
    except (TypeError, ValueError):
        return Refusal("dicom_damaged", "the DICOM fields Rows, Columns or NumberOfFrames are not numbers")
    if frames != 1:
        return Refusal("image_multiframe", f"the DICOM file holds {frames} frames", size)
    if not 0 < size[0] * size[1] <= max_pixels:
        return Refusal("image_oversized", f"the image has {size[0]} x {size[1]} pixels, more than {max_pixels}", size)
    return _of_dicom_pixels(path, str(error), size)


def _of_dicom_pixels(path: Path, message: str, size: tuple[int, int]) -> Refusal:
    import pydicom

    try:
        data = pydicom.dcmread(path, specific_tags=["PixelData"])
        there = "PixelData" in data
        syntax = getattr(data.file_meta, "TransferSyntaxUID", None)
    except (*dicom.DAMAGE, NotImplementedError):
        return Refusal("dicom_damaged", "the DICOM file is damaged or cut short", size)
    if not there:
        return Refusal("dicom_without_pixels", "the DICOM file has a header, but no pixel data", size)
    if syntax is None:
        return Refusal("dicom_syntax", "the DICOM file does not tell its transfer syntax", size)
    if syntax.is_private or not syntax.is_transfer_syntax:
        return Refusal("dicom_syntax", "the DICOM file has an unknown transfer syntax", size)
    if syntax.is_compressed and "cannot be decoded" in message:
        return Refusal("dicom_syntax", f"the DICOM pixels are compressed ({syntax.name}), and nothing here unpacks that", size)
    for words, kind, what in (
        ("photometric interpretation", "dicom_unread", "the photometric interpretation of the DICOM file is not read"),
        ("window", "dicom_damaged", "the window (VOI) of the DICOM file is not a sound one"),
        ("rescale", "dicom_damaged", "the rescale slope or intercept of the DICOM file is not a sound one"),
    ):
        if words in message.lower():
            return Refusal(kind, what, size)
    return Refusal("image_truncated", "the DICOM pixel data do not fill Rows x Columns, or are damaged", size)
