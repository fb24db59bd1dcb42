"""Hostile DICOM files for `security_bombs.py`."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any


def dicom_files(jpeg: Callable[[int, int], bytes], zeros: int) -> dict[str, bytes]:
    """By name: huge Rows and Columns, a header that is deflated zeros, and a picture inside that is larger than told."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit

    huge = _file(ExplicitVRLittleEndian, 60000, 60000, bytes(64))
    large = _file(JPEGBaseline8Bit, 8, 8, encapsulate([jpeg(12000, 12000)]))
    larger = _file(JPEGBaseline8Bit, 8, 8, encapsulate([jpeg(65000, 65000)]))
    deflated = _file(DeflatedExplicitVRLittleEndian, 8, 8, bytes(64))
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = deflated[: 132 + 12 + int.from_bytes(deflated[140:144], "little")]
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(zeros >> 20)) + packer.flush()
    nested = _file(ExplicitVRLittleEndian, 8, 8, bytes(64), depth=3000)
    return {
        "rows.dcm": huge,
        "inside.dcm": large,
        "far_inside.dcm": larger,
        "deflated.dcm": head + packed,
        "nested.dcm": nested,
    }


def _file(syntax: Any, rows: int, columns: int, pixels: bytes, depth: int = 0) -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    data = FileDataset("x.dcm", {}, file_meta=meta, preamble=bytes(128))
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "DX", "MONOCHROME2", 1
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = rows, columns, 8, 8, 7
    data.PixelRepresentation, data.PixelData = 0, pixels
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = syntax.is_compressed and syntax.is_encapsulated
    made = io.BytesIO()
    data.save_as(made, enforce_file_format=True)
    whole = made.getvalue()
    if not depth:
        return whole
    # sequences of undefined length inside one another, before the pixels: (0040,A730) SQ, item, and so on
    opening = bytes.fromhex("4000 30a7 5351 0000 ffffffff feff 00e0 ffffffff".replace(" ", ""))
    place = whole.rindex(bytes.fromhex("e07f1000"))
    return whole[:place] + opening * depth + whole[place:]
