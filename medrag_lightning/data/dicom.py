"""DICOM to 8-bit pixels. Only the header fields in `ALLOWED` are ever parsed: never a name, an identifier or a date.

Needs pydicom, the extra ``dicom``. Values are rescaled (slope, intercept), windowed by the first VOI window of the file (DICOM
PS3.3 C.11.2.1.2; the image's own minimum and maximum where it has none), and inverted for MONOCHROME1.
"""

from __future__ import annotations

import importlib.util
import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALLOWED = (
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
)
MAGIC_AT_BYTE = 128
DEFLATED = "1.2.840.10008.1.2.1.99"
"""The transfer syntax that packs the header too: reading any of it unpacks all of it, however large that is."""
DAMAGE = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError, OverflowError),
    *(RecursionError, MemoryError, struct.error),
)
"""What pydicom raises on a damaged file."""


def is_dicom(path: Path) -> bool:
    """Whether the file has the DICOM magic, or a name that promises it."""
    with path.open("rb") as stream:
        magic = stream.read(MAGIC_AT_BYTE + 4)[MAGIC_AT_BYTE:]
    return magic == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def read_header(path: str | Path) -> dict[str, Any]:
    """The allowed fields that the file has, as plain Python values; its pixels are not read."""
    data = _read(Path(path), stop_before_pixels=True)
    return {name: _plain(data.get(name)) for name in ALLOWED if data.get(name) is not None}


def read_size_px(path: Path, max_pixels: int) -> tuple[int, int]:
    """Width and height from the header. ValueError for more than `max_pixels`, several frames, or a missing size."""
    header = read_header(path)
    try:
        width, height, frames = int(header["Columns"]), int(header["Rows"]), int(header.get("NumberOfFrames", 1))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: the DICOM header does not give Rows and Columns, so it holds no image: {error}") from error
    if frames != 1:
        raise ValueError(f"{path}: {frames} frames in one DICOM file; save the frame that is meant as a file of its own")
    if not 0 < width * height <= max_pixels:
        raise ValueError(
            f"{path}: {width} x {height} pixels is outside 1..{max_pixels} (max_pixels); resize the image or raise the limit"
        )
    return width, height


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """The image as uint8 (H, W) or (H, W, 3). Call `read_size_px` first: this decodes."""
    data = _read(path, stop_before_pixels=False)
    kind = str(data.get("PhotometricInterpretation", ""))
    _check_packed_size(path, data)
    try:
        from pydicom.pixels import pixel_array

        pixels: NDArray[Any] = pixel_array(data)
    except (*DAMAGE, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: the DICOM pixels cannot be decoded: {error}") from error
    if kind in ("MONOCHROME1", "MONOCHROME2") and pixels.ndim == 2:
        grey = _window(path, pixels, data)
        return np.asarray(255 - grey if kind == "MONOCHROME1" else grey, np.uint8)
    if (kind == "RGB" or kind.startswith("YBR")) and pixels.dtype == np.uint8 and pixels.ndim == 3:
        return pixels
    raise ValueError(
        f"{path}: DICOM photometric interpretation {kind!r} ({pixels.dtype} {pixels.shape}) is not read; export it as PNG"
    )


def _refuse_deflated(path: Path) -> None:
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info

    try:
        syntax = str(read_file_meta_info(path).get("TransferSyntaxUID", ""))
    except (*DAMAGE, NotImplementedError, InvalidDicomError):
        return  # reading the file proper says what is wrong with it
    if syntax == DEFLATED:
        raise ValueError(
            f"{path}: the DICOM file is deflated as a whole (transfer syntax {DEFLATED}), so its size is not known before "
            "it is unpacked; save it uncompressed or as JPEG"
        )


def _check_packed_size(path: Path, data: Any) -> None:
    """Refuses a packed picture (JPEG, JPEG 2000) inside whose own size is not the one that the header was checked with."""
    syntax = data.file_meta.get("TransferSyntaxUID") if hasattr(data, "file_meta") else None
    if syntax is None or not syntax.is_compressed or "RLE" in syntax.name or "PixelData" not in data:
        return
    from PIL import Image
    from pydicom.encaps import get_frame

    told = (int(data.Columns), int(data.Rows))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            size = Image.open(io.BytesIO(get_frame(data.PixelData, 0, number_of_frames=1))).size
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: the picture inside the DICOM file is not {told[0]} x {told[1]} pixels: {error}") from error
    except DAMAGE:
        return  # a codec that Pillow does not know; decoding says so
    if size != told:
        raise ValueError(
            f"{path}: the picture inside the DICOM file is {size[0]} x {size[1]} pixels, its header says {told[0]} x {told[1]}"
        )


def _window(path: Path, pixels: NDArray[Any], data: Any) -> NDArray[np.uint8]:
    """Rescaled and windowed to 0..255."""
    slope, intercept, centre, width = (
        _number(path, name, data.get(name)) for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
    )
    with np.errstate(over="ignore", invalid="ignore"):
        values = pixels.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: rescale slope {slope} and intercept {intercept} make values that are not finite")
    if centre is None or width is None:
        low, span = values.min(), values.max() - values.min()
        share = (values - low) / span if span > 0 else np.zeros_like(values)
    else:
        share = _voi_share(path, values, centre, width, str(data.get("VOILUTFunction") or "LINEAR"))
    return np.rint(np.clip(share, 0.0, 1.0) * 255.0).astype(np.uint8)


def _voi_share(path: Path, values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """Where each value lies in the window, as a share of its range (not clipped)."""
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError(f"{path}: DICOM window width {width} is too small for the VOI function {function}")
    if function == "LINEAR":
        if width == 1:
            return np.asarray(values > centre - 0.5, np.float64)
        return (values - (centre - 0.5)) / (width - 1) + 0.5
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700.0, 700.0))), np.float64)
    raise ValueError(f"{path}: unknown DICOM VOI function {function!r}")


def _number(path: Path, name: str, value: Any) -> float | None:
    """A number, or the first of several; None when the field is missing or empty."""
    if value is None or value == "":
        return None
    try:
        return float(value if isinstance(value, int | float | str) else value[0])
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: DICOM field {name} is not a number") from error


def _plain(value: Any) -> Any:
    if isinstance(value, int | str):
        return int(value) if isinstance(value, int) else str(value)
    if isinstance(value, float):
        return float(value)
    return [_plain(item) for item in value] if hasattr(value, "__iter__") else str(value)


def _read(path: Path, *, stop_before_pixels: bool) -> Any:
    if importlib.util.find_spec("pydicom") is None:
        raise ValueError(f"{path}: reading DICOM needs pydicom; install the extra: pip install 'medrag-lightning[dicom]'")
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    _refuse_deflated(path)
    tags = list(ALLOWED) if stop_before_pixels else [*ALLOWED, "PixelData"]
    try:
        data = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, specific_tags=tags)
        for name in ALLOWED:
            data.get(name)  # parsed now, so that a damaged field is reported here
        return data
    except InvalidDicomError as error:
        raise ValueError(f"{path}: not a DICOM file (its header lacks the DICM mark)") from error
    except (*DAMAGE, NotImplementedError, BytesLengthException) as error:
        # its text is left out: it may quote bytes of other fields
        raise ValueError(f"{path}: damaged DICOM file: {type(error).__name__}") from error
