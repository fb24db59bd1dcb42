"""Files that are small on disk and huge when read, and what must refuse each of them: the drills of `security.py`.

A drill passes when reading raises ValueError with a reason, in under `MOST_SECONDS`, and memory grows by less than `MOST_MIB`.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from medrag_lightning.artifacts import read_json
from medrag_lightning.cli.config_files import read_config
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.records import ImageRef

MOST_SECONDS, MOST_MIB = 5.0, 96
ZEROS = 256 << 20


@dataclass(frozen=True, slots=True)
class Drill:
    """One hostile input. `read` must raise ValueError."""

    kind: str
    name: str
    read: Callable[[], object]


def bombs(folder: Path) -> list[Drill]:
    """Writes the bombs to `folder` and gives a drill for each."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [*_pictures(folder), *_arrays(folder), *_dicoms(folder), *_texts(folder), *_tensors(folder)]
    return made


def _image(kind: str, path: Path, data: bytes, array: str | None = None) -> Drill:
    path.write_bytes(data)
    ref = ImageRef(str(path), array, None if array is None else 0)
    return Drill(kind, path.name, lambda: ImageStore([path.parent])(ref))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of a size, its pixels left out where they would be many, with chunks before and after them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = zlib.compress(b"\0" * min((width + 1) * height, 1 << 16))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")


def _pictures(folder: Path) -> Iterable[Drill]:
    zeros = zlib.compress(b"\0" * ZEROS, 9)
    text, text_i = chunk(b"zTXt", b"k\0\0" + zeros), chunk(b"iTXt", b"k\0\1\0\0\0" + zeros)
    many = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 1000000, 9)) * 400
    pngs = {
        "pixels.png": png(9000, 9000),
        "more_pixels.png": png(60000, 60000),
        "text_before.png": png(8, 8, text),
        "text_after.png": png(8, 8, b"", text),
        "itext_before.png": png(8, 8, text_i),
        "itext_after.png": png(8, 8, b"", text_i),
        "profile.png": png(8, 8, chunk(b"iCCP", b"k\0\0" + zeros)),
        "many_texts.png": png(8, 8, many),
    }
    yield from (_image("PNG", folder / name, data) for name, data in pngs.items())
    yield _image("JPEG", folder / "pixels.jpg", _resized_jpeg(65000, 65000))
    yield _image("JPEG", folder / "fewer_pixels.jpg", _resized_jpeg(9000, 9000))
    yield _image("TIFF", folder / "pixels.tif", _resized_tiff(60000))
    yield _image("TIFF", folder / "fewer_pixels.tif", _resized_tiff(9000))
    for side in (16384, 9000):
        yield _image("WebP", folder / f"pixels{side}.webp", _webp(side))


def _resized_jpeg(width: int, height: int) -> bytes:
    made = io.BytesIO()
    Image.new("L", (8, 8)).save(made, "JPEG")
    data = bytearray(made.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _resized_tiff(side: int) -> bytes:
    made = io.BytesIO()
    Image.new("L", (8, 8)).save(made, "TIFF", compression="tiff_deflate")
    data = bytearray(made.getvalue())
    (first,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[first : first + 2])
    for place in range(first + 2, first + 2 + 12 * count, 12):
        if struct.unpack("<H", data[place : place + 2])[0] in (256, 257, 278):  # width, length, rows per strip
            data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


def _webp(side: int) -> bytes:
    bits = b"\x2f" + struct.pack("<I", (side - 1) | ((side - 1) << 14)) + bytes(64)
    body = b"WEBPVP8L" + struct.pack("<I", len(bits)) + bits
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _arrays(folder: Path) -> Iterable[Drill]:
    shape = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2000, 1000, 1000), }\n"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(shape)) + shape
    huge_header = b"\x93NUMPY\x02\x00" + struct.pack("<I", ZEROS)
    nested = b"{'descr': " + b"(" * 4000 + b"}"
    zeros = [bytes(1 << 20)] * (ZEROS >> 20)
    for name, parts in {
        "zeros.npz": [header, *zeros],
        "long_header.npz": [huge_header, *zeros],
        "lying_shape.npz": [header, b"\0" * 1000],
        "nested_header.npz": [b"\x93NUMPY\x01\x00" + struct.pack("<H", len(nested)) + nested],
    }.items():
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as stream:
            for part in parts:
                stream.write(part)
        yield _image(".npz", folder / name, (folder / name).read_bytes(), "images")
    np.savez(folder / "objects.npz", images=np.array([{"a": 1}], dtype=object))
    yield _image(".npz", folder / "objects.npz", (folder / "objects.npz").read_bytes(), "images")


def _dicoms(folder: Path) -> Iterable[Drill]:
    from security_dicom import dicom_files  # type: ignore[import-not-found]

    yield from (_image("DICOM", folder / name, data) for name, data in dicom_files(_resized_jpeg, ZEROS).items())


def _texts(folder: Path) -> Iterable[Drill]:
    def rows(path: Path) -> None:
        problems = [row.problem for row in read_rows(path) if row.problem]
        if problems:
            raise ValueError(problems[0])

    import gzip

    deep = "[" * 100_000 + "]" * 100_000
    (folder / "deep.jsonl").write_text('{"id": ' + deep + "}\n")
    (folder / "deep.json").write_text('[{"id": ' + deep + "}]")
    (folder / "digits.jsonl").write_text('{"id": ' + "9" * 1_000_000 + "}\n")
    with gzip.open(folder / "line.jsonl.gz", "wb", 9) as stream:
        stream.write(b'{"id": "' + bytes(ZEROS).replace(b"\0", b"a") + b'"}')
    yield from (
        Drill("JSON", n, partial(rows, folder / n)) for n in ("deep.jsonl", "deep.json", "digits.jsonl", "line.jsonl.gz")
    )
    yield Drill("JSON", "deep manifest", lambda: read_json(folder / "deep.json"))
    laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
    laughs += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
    for name, text in {"laughs.yaml": laughs, "deep.yaml": "a: " + "[" * 5000, "self.yaml": "a: &a [*a]\n"}.items():
        (folder / name).write_text(text)
        yield Drill("YAML", name, partial(read_config, folder / name))


def _tensors(folder: Path) -> Iterable[Drill]:
    from safetensors import SafetensorError, safe_open

    def read(path: Path) -> None:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ValueError(str(error)) from error

    told = json.dumps({"a": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 4 << 30]}}).encode()
    overlap = {f"t{n}": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in range(2)}
    lies = json.dumps(overlap).encode()
    files = {
        "long_header.safetensors": struct.pack("<Q", 1 << 62) + b"{}",
        "lying_offsets.safetensors": struct.pack("<Q", len(told)) + told + bytes(64),
        "overlap.safetensors": struct.pack("<Q", len(lies)) + lies + bytes(8),
        "deep_header.safetensors": struct.pack("<Q", 200_000) + b"[" * 200_000,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
        yield Drill("safetensors", name, partial(read, folder / name))
