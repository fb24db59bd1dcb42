"""Captions and reports: ROCO, PMC-OA, MIMIC-CXR, IU X-Ray."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from table_files import image_at, jsonl

from medrag_lightning.data.tables import CaptionPairs, IuXray, MimicCxrReports
from medrag_lightning.data.tables.report_sections import joined_sections, read_sections
from medrag_lightning.interfaces import Table
from medrag_lightning.records import Split, shares_identity


def test_rocov2_roco_and_pmc_oa_captions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("ROCOv2_1.jpg", "ROCO_2.jpg", "PMC3_Fig1.jpg"):
        image_at(tmp_path / "train" / name)
    root = str(tmp_path / "train")
    (tmp_path / "train_captions.csv").write_text('ID,Caption\nROCOv2_1,"CT, axial\nview"\n')
    table = CaptionPairs(str(tmp_path / "train_captions.csv"), root, dataset="rocov2", license="CC BY")
    assert isinstance(table, Table)
    (document,) = table.documents()
    assert (document.id, document.text, document.license) == ("rocov2-ROCOv2_1", "CT, axial view", "CC BY")
    (tmp_path / "captions.txt").write_text('ROCO_2\t A "quoted" X-ray\nROCO_9\tgone\n')
    settings: dict[str, Any] = {"columns": ["ID", "Caption"], "dataset": "roco"}
    with pytest.raises(ValueError, match=r"captions\.txt:2: image 'ROCO_9' is not there"):
        CaptionPairs(str(tmp_path / "captions.txt"), root, **settings).documents()
    with caplog.at_level(logging.WARNING):
        (document,) = CaptionPairs(str(tmp_path / "captions.txt"), root, missing_images="skip", **settings).documents()
    assert document.text == 'A "quoted" X-ray'
    assert "1 rows skipped" in caplog.text
    assert len(CaptionPairs(str(tmp_path / "captions.txt"), root, missing_images="ignore", **settings).documents()) == 2
    path = jsonl(tmp_path / "pmc_oa.jsonl", [{"image": "PMC3_Fig1.jpg", "caption": "a", "alignment_score": 0.5}])
    table = CaptionPairs(str(path), root, name_column="image", caption_column="caption", dataset="pmc")
    assert [d.id for d in table.documents()] == ["pmc-PMC3_Fig1.jpg"]
    assert table.queries() == []


def test_caption_faults(tmp_path: Path) -> None:
    image_at(tmp_path / "a.jpg")
    (tmp_path / "c.csv").write_text("ID,caption\na,x\na,y\n")
    with pytest.raises(ValueError, match=r"c\.csv:2: key 'Caption' is missing .* did you mean its key 'caption'"):
        CaptionPairs(str(tmp_path / "c.csv"), str(tmp_path)).documents()
    with pytest.raises(ValueError, match=r"c\.csv:3: id .*a' was already used at .*c\.csv:2"):
        CaptionPairs(str(tmp_path / "c.csv"), str(tmp_path), caption_column="caption").documents()


REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // ?pneumonia

 FINDINGS:

 There is no focal consolidation,
 pleural effusion: none.

 IMPRESSION:  No acute process.
"""


def test_sections_need_their_heading() -> None:
    found = read_sections(REPORT)
    assert found["FINDINGS"] == "There is no focal consolidation, pleural effusion: none."
    assert joined_sections(REPORT, ["findings", "impression"]) == found["FINDINGS"] + " No acute process."
    assert joined_sections("FINAL REPORT\n Lungs are clear. No findings: none.\n", ["findings"]) == ""
    assert joined_sections("FINDINGS:\n\nIMPRESSION:  \r\n Stable.\r\n", ["findings", "impression"]) == "Stable."
    assert joined_sections("FINDINGS AND IMPRESSION:  Clear.\n", ["findings", "impression"]) == "Clear."
    assert joined_sections("IMPRESSION: A.\nADDENDUM:\nIMPRESSION: B.\n", ["impression"]) == "A. B."


def mimic(root: Path, *changes: dict[str, str]) -> Path:
    rows = [
        {"dicom_id": "d1", "subject_id": "10000032", "study_id": "50414267", "ViewPosition": "PA", "split": "train"},
        {"dicom_id": "d2", "subject_id": "10000032", "study_id": "50414267", "ViewPosition": "LATERAL", "split": "train"},
        {"dicom_id": "d3", "subject_id": "10000033", "study_id": "50414268", "ViewPosition": "AP", "split": "validate"},
    ]
    rows += [rows[0] | change for change in changes]
    metadata = ["dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition"]
    split = ["dicom_id,study_id,subject_id,split"]
    for row in rows:
        folder = root / "files" / f"p{row['subject_id'][:2]}" / f"p{row['subject_id']}"
        image_at(folder / f"s{row['study_id']}" / f"{row['dicom_id']}.jpg")
        (folder / f"s{row['study_id']}.txt").write_text(row.get("report", REPORT))
        metadata.append(f"{row['dicom_id']},{row['subject_id']},{row['study_id']},,{row['ViewPosition']}")
        split.append(f"{row['dicom_id']},{row['study_id']},{row['subject_id']},{row['split']}")
    (root / "mimic-cxr-2.0.0-metadata.csv.gz").write_bytes(gzip.compress(("\n".join(metadata) + "\n").encode()))
    (root / "mimic-cxr-2.0.0-split.csv").write_text("\n".join(split) + "\n")
    return root


def test_mimic_cxr(tmp_path: Path) -> None:
    table = MimicCxrReports(str(mimic(tmp_path)))
    assert isinstance(table, Table)
    (document,) = table.documents()
    assert (document.id, document.patient_id, document.study_id) == ("d1", "mimic_cxr:10000032", "mimic_cxr:50414267")
    assert document.text.endswith("No acute process.")
    assert "INDICATION" not in document.text
    assert table.queries() == []
    asked = MimicCxrReports(str(tmp_path), views=None, question="what are the findings?").queries()
    assert [(q.id, q.split) for q in asked] == [("d1", Split.TRAIN), ("d2", Split.TRAIN), ("d3", Split.VAL)]
    assert shares_identity(asked[1], document) == "study_id"


def test_mimic_cxr_reports_without_sections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = {"dicom_id": "d4", "subject_id": "10000034", "study_id": "50414269", "report": "FINAL REPORT\n Lungs are clear.\n"}
    root = str(mimic(tmp_path, bare))
    with caplog.at_level(logging.WARNING):
        assert [d.id for d in MimicCxrReports(root).documents()] == ["d1"]
    assert "1 studies skipped" in caplog.text
    assert MimicCxrReports(root, without_sections="whole").documents()[1].text == "FINAL REPORT Lungs are clear."
    with pytest.raises(ValueError, match=r"metadata\.csv\.gz:5: report .*s50414269\.txt has none of the sections"):
        MimicCxrReports(root, without_sections="error").documents()


def test_mimic_cxr_faults(tmp_path: Path) -> None:
    root = mimic(tmp_path)
    (root / "files" / "p10" / "p10000033" / "s50414268.txt").unlink()
    (root / "files" / "p10" / "p10000032" / "s50414267" / "d1.jpg").unlink()
    with pytest.raises(ValueError, match=r"(?s)2 bad rows.*gz:2: image .*d1\.jpg' is not there.*gz:4: there is no report"):
        MimicCxrReports(str(root)).documents()
    (root / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\n")
    (root / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\nd1,1,1,holdout\nd3\n")
    with pytest.raises(ValueError, match=r"(?s)2 bad rows.*split\.csv:2: 'split' is 'holdout'.*split\.csv:3: 1 cells"):
        MimicCxrReports(str(root)).documents()
    (root / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\n")
    with pytest.raises(ValueError, match=r"dicom_id 'd1' is not in mimic-cxr-2\.0\.0-split\.csv"):
        MimicCxrReports(str(root)).documents()


def iu(tmp_path: Path, **changes: Any) -> str:
    for n in (0, 1):
        image_at(tmp_path / "images" / "CXR2384_IM-0942" / f"{n}.png")
    row = {"id": "CXR2384_IM-0942", "report": "Clear  lungs.", "split": "train"}
    row |= {"image_path": ["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png"]}
    other = row | {"id": "CXR9_IM-1", "split": "test"} | changes
    path = tmp_path / "annotation.json"
    path.write_text('{"train": [' + json.dumps(row) + '],\n "val": [],\n "test": [\n' + json.dumps(other) + "]}")
    return str(path)


def test_iu_xray(tmp_path: Path) -> None:
    table = IuXray(iu(tmp_path))
    assert isinstance(table, Table)
    assert [d.id for d in table.documents()] == ["iuxray-CXR2384_IM-0942-0", "iuxray-CXR2384_IM-0942-1"]
    assert (table.documents()[0].text, table.documents()[0].patient_id) == ("Clear lungs.", "iu_xray:CXR2384")
    assert table.queries() == []
    asked = IuXray(iu(tmp_path), images_per_study="first", question="what are the findings?").queries()
    assert [(q.split, q.answer) for q in asked] == [(Split.TRAIN, "Clear lungs."), (Split.TEST, "Clear lungs.")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_path": "a.png"}, "expected a list of texts"),
        ({"image_path": []}, "key 'image_path' is missing or empty"),
        ({"split": "train"}, "the row says split 'train', but it stands in the list 'test'"),
        ({"report": None}, "key 'report' is empty"),
        ({"id": "CXR2384_IM-0942"}, "id 'iuxray-CXR2384_IM-0942-0' was already used"),
    ],
)
def test_iu_xray_faults(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"annotation\.json:4: .*{said}"):
        IuXray(iu(tmp_path, **changes)).documents()
