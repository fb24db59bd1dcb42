"""DICOM pixels by the standard's rules; of the header only fields that say nothing about the person."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from medrag_lightning.data import dicom
from medrag_lightning.data.images import ImageStore
from medrag_lightning.records import ImageRef

RAMP = np.array([[0, 500, 1000], [1500, 2000, 4000]], np.uint16)


def write_dicom(path: Path, pixels: np.ndarray[Any, Any], **fields: Any) -> ImageRef:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID, data.PatientBirthDate, data.StudyDate = "Doe^Jane", "SECRET-7", "19700101", "20200101"
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "DX", "MONOCHROME2", 1
    data.Rows, data.Columns = pixels.shape[:2]
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return ImageRef(str(path))


def grey(tmp_path: Path, ref: ImageRef) -> list[list[int]]:
    return np.asarray(ImageStore([tmp_path])(ref))[..., 0].tolist()


def test_without_a_window_the_images_own_range_is_used(tmp_path: Path) -> None:
    ref = write_dicom(tmp_path / "a.dcm", RAMP)
    assert grey(tmp_path, ref) == [[0, 32, 64], [96, 128, 255]]
    assert ImageStore([tmp_path]).size_px(ref) == (3, 2)


def test_rescale_window_and_inversion(tmp_path: Path) -> None:
    fields = {"RescaleSlope": 0.5, "RescaleIntercept": -100, "WindowCenter": [400, 9], "WindowWidth": [801, 9]}
    ref = write_dicom(tmp_path / "w.dcm", RAMP, **fields)
    values = RAMP * 0.5 - 100
    expected = np.rint(np.clip((values - 399.5) / 800 + 0.5, 0, 1) * 255)
    assert grey(tmp_path, ref) == expected.tolist()
    ref = write_dicom(tmp_path / "i.dcm", RAMP, PhotometricInterpretation="MONOCHROME1", **fields)
    assert grey(tmp_path, ref) == (255 - expected).tolist()


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions_put_the_centre_in_the_middle(tmp_path: Path, function: str) -> None:
    ref = write_dicom(tmp_path / "f.dcm", RAMP, WindowCenter=1000, WindowWidth=400, VOILUTFunction=function)
    assert grey(tmp_path, ref)[0][2] == 128
    ref = write_dicom(tmp_path / "bad.dcm", RAMP, WindowCenter=1000, WindowWidth=0, VOILUTFunction=function)
    with pytest.raises(ValueError, match=r"bad\.dcm: DICOM window width 0"):
        grey(tmp_path, ref)


def test_colour(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    fields = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    ref = write_dicom(tmp_path / "c.dcm", pixels, PhotometricInterpretation="RGB", **fields)
    assert np.array_equal(np.asarray(ImageStore([tmp_path])(ref)), pixels)
    ref = write_dicom(tmp_path / "p.dcm", RAMP, PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(ValueError, match=r"p\.dcm.*PALETTE COLOR"):
        ImageStore([tmp_path])(ref)


def test_only_listed_fields_are_parsed(tmp_path: Path) -> None:
    ref = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=[1, 2])
    header = dicom.read_header(ref.path)
    assert header["Modality"] == "DX"
    assert header["WindowCenter"] == [1.0, 2.0]
    assert set(header) <= set(dicom.ALLOWED)
    assert "Doe" not in repr(header)
    data = dicom._read(Path(ref.path), stop_before_pixels=False)
    assert "PatientName" not in data
    assert "PatientID" not in data


def test_size_frames_and_damage_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom, "read_pixels", lambda path: pytest.fail("decoded too early"))
    store = ImageStore([tmp_path])
    big = write_dicom(tmp_path / "big.dcm", RAMP, Rows=60000, Columns=60000)
    with pytest.raises(ValueError, match=r"big\.dcm: 60000 x 60000 pixels"):
        store(big)
    with pytest.raises(ValueError, match=r"cine\.dcm: 12 frames"):
        store(write_dicom(tmp_path / "cine.dcm", RAMP, NumberOfFrames=12))
    (tmp_path / "text.dcm").write_bytes(b"hello" * 100)
    with pytest.raises(ValueError, match=r"text\.dcm: not a DICOM file"):
        store(ImageRef(str(tmp_path / "text.dcm")))


def test_cut_pixels_name_the_file_and_not_the_patient(tmp_path: Path) -> None:
    ref = write_dicom(tmp_path / "short.dcm", RAMP, PixelData=RAMP.tobytes()[:4])
    with pytest.raises(ValueError, match=r"short\.dcm: the DICOM pixels cannot be decoded") as caught:
        ImageStore([tmp_path])(ref)
    assert "Doe" not in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_missing_pydicom_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = write_dicom(tmp_path / "a.dcm", RAMP)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pydicom" else find(name))
    with pytest.raises(ValueError, match=r"medrag-lightning\[dicom\]"):
        ImageStore([tmp_path])(ref)
