"""Findings about images, each at the first row that names the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medrag_lightning.data.audit.findings import Finding, Severity
from medrag_lightning.data.audit.image_pass import ImageFacts
from medrag_lightning.records import ImageRef

REMEDIES = {
    "image_missing": "copy the files there, correct their names or image_root, or remove their rows",
    "image_outside": "move the file under the image folder of its table, or declare its folder as image_root",
    "image_unreadable": "let this user read the file: chmod u+r FILE",
    "image_corrupt": "export or download the file again, or remove its rows",
    "image_truncated": "copy or download the file again: a part of it is missing",
    "image_oversized": "make the image smaller, or raise data.init_args.max_pixels",
    "image_multiframe": "save the frame that is meant as a file of its own",
    "image_foreign": "export it as PNG, JPEG, TIFF, WebP or DICOM",
    "image_array": "correct the array's name or the number, or save uint8 arrays (N, H, W) or (N, H, W, 3) with np.savez",
    "image_misnamed": "nothing needs it here, for bytes decide; rename the file, because other programs go by the name",
    "image_blank": "look at the image: was the right one exported?",
    "dicom_unread": "pip install 'medrag-lightning[dicom]', or export the file as PNG",
    "dicom_damaged": "export the file again, or remove its rows",
    "dicom_without_pixels": "name the image's own file: this one is a report, a structure set or a bare header",
    "dicom_syntax": "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or unpack it: gdcmconv --raw IN OUT",
}
REFUSED = "replace the file, or remove its rows"


def image_findings(facts: Mapping[ImageRef, ImageFacts], rows: Mapping[ImageRef, Sequence[str]]) -> list[Finding]:
    """One finding for each image that is refused, or that deserves a look.

    Args:
        facts: what one pass over the images found.
        rows: the places of the rows that name each image.
    """
    findings = []
    for ref, told in facts.items():
        if told.kind is None:
            continue
        severity: Severity = "error" if told.fault is not None else "warning"
        what, places = told.fault or told.remark or "", list(dict.fromkeys(rows[ref]))
        if len(places) > 1:
            what += f" ({len(places)} rows name it)"
        findings.append(Finding(told.kind, severity, places[0], what, REMEDIES.get(told.kind, REFUSED)))
    return findings
