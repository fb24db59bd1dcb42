"""Images that lie in ``.npz`` arrays, as MedMNIST ships them. Nothing is unpickled, and sizes are read before the data.

An array stored without compression (``np.savez``) is mapped from disk; a compressed one is read into memory once per process.
"""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

MAX_COMPRESSED_BYTES = 4 << 30
MAX_HEADER_BYTES = 1 << 16
BOMB_BYTES, BOMB_RATIO = 64 << 20, 200
"""An array that unpacks to more than so many bytes, and to more than so many times its packed size, is a bomb. Pictures pack
to a third; deflate reaches 1000 on zeros alone."""
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
    *(OSError, EOFError, ValueError, SyntaxError, RuntimeError, NotImplementedError),
)
"""What zipfile and numpy raise on a damaged, encrypted or foreign file."""


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """Shape and type of one array, and whether it is stored without compression."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: bool


def read_headers(path: str | Path) -> dict[str, ArrayHeader]:
    """The arrays of an ``.npz`` file by name, without their data. ValueError for a damaged file or an array of objects."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                Path(info.filename).stem: _read_header(archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except DAMAGE as error:
        raise ValueError(f"{path}: not a readable .npz file: {error}") from error


def read_array(path: str | Path, name: str) -> NDArray[Any]:
    """One whole array of an ``.npz`` file, read into memory. ValueError when it is missing or damaged, or no honest one."""
    read_headers(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values: NDArray[Any] = arrays[name]
            return values
    except KeyError as error:
        raise ValueError(f"{path}: there is no array {name!r}") from error
    except DAMAGE as error:
        raise ValueError(f"{path}: array {name!r} cannot be read: {error}") from error


class ArrayFile:
    """The image arrays of one ``.npz`` file, opened on first use and kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._headers = read_headers(path)
        self._data: dict[str, NDArray[np.uint8]] = {}

    def size_px(self, name: str, index: int, max_pixels: int) -> tuple[int, int]:
        """Width and height of one item; ValueError when the item does not exist or is no image."""
        header = self._headers.get(name)
        if header is None:
            raise ValueError(f"{self.path}: there is no array {name!r}; it holds {', '.join(self._headers) or 'none'}")
        shape = header.shape
        grey, colour = len(shape) == 3, len(shape) == 4 and shape[3] in (1, 3)
        if header.dtype != np.uint8 or not (grey or colour):
            raise ValueError(
                f"{self.path}: array {name!r} is {header.dtype} {shape}; "
                "images are uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
            )
        if not 0 <= index < shape[0]:
            raise ValueError(f"{self.path}: array {name!r} has {shape[0]} images, there is no number {index} (counted from 0)")
        if not 0 < shape[1] * shape[2] <= max_pixels:
            raise ValueError(
                f"{self.path}: array {name!r}: {shape[2]} x {shape[1]} pixels is outside 1..{max_pixels} (max_pixels)"
            )
        return shape[2], shape[1]

    def item(self, name: str, index: int, max_pixels: int) -> NDArray[np.uint8]:
        """One image: uint8 (H, W) or (H, W, 3)."""
        self.size_px(name, index, max_pixels)
        if name not in self._data:
            self._data[name] = self._load(name)
        image = np.ascontiguousarray(self._data[name][index])
        return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image

    def _load(self, name: str) -> NDArray[np.uint8]:
        header = self._headers[name]
        if header.stored:
            return _map(self.path, name, header)
        size_bytes = int(np.prod(header.shape, dtype=np.int64))
        if size_bytes > MAX_COMPRESSED_BYTES:
            raise ValueError(
                f"{self.path}: array {name!r} unpacks to {size_bytes / 2**30:.1f} GiB of memory per process; "
                "save the file again with np.savez (no compression), then it is read from disk item by item"
            )
        return read_array(self.path, name)


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
    if info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * max(info.compress_size, 1):
        raise ValueError(
            f"{info.filename} unpacks {info.compress_size} bytes to {info.file_size}: a bomb, or an array of almost "
            "nothing but one value; save it with np.savez (no compression) if it is meant"
        )
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"{info.filename} has the unknown .npy version {version}")
        shape, fortran_order, dtype = read(_short_header(info.filename, stream, version))
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects (a pickle), which is refused")
    if min(shape, default=0) < 0 or int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize > info.file_size:
        raise ValueError(f"{info.filename} says that it has the shape {shape}, but is too short for it")
    return ArrayHeader(shape, dtype, info.compress_type == zipfile.ZIP_STORED and not fortran_order)


def _short_header(name: str, stream: IO[bytes], version: tuple[int, int]) -> IO[bytes]:
    """The header alone, after its length was looked at: numpy reads it whole first, whatever length it claims."""
    length = stream.read(2 if version == (1, 0) else 4)
    count = int.from_bytes(length, "little")
    if count > MAX_HEADER_BYTES:
        raise ValueError(f"{name} claims a header of {count} bytes, which no array has")
    return io.BytesIO(length + stream.read(count))


def _map(path: Path, name: str, header: ArrayHeader) -> NDArray[np.uint8]:
    """Maps a stored array: the local header of a zip member is 30 bytes, its name and its extra field, then the data."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        name_bytes, extra_bytes = struct.unpack("<HH", stream.read(30)[26:])
        stream.seek(info.header_offset + 30 + name_bytes + extra_bytes)
        version = npy.read_magic(stream)
        (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
        offset = stream.tell()
    if offset + int(np.prod(header.shape, dtype=np.int64)) > path.stat().st_size:
        raise ValueError(f"{path}: array {name!r} is cut short; download the file again")
    return np.memmap(path, dtype=header.dtype, mode="r", offset=offset, shape=header.shape)
