"""Image names in tables to `ImageRef`s, checked when the table is read rather than in the middle of training."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medrag_lightning.artifacts import name_fault
from medrag_lightning.records import ImageRef

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".dcm", ".dicom")


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The folder that a table's image names are relative to.

    Attributes:
        root: the folder, absolute, so that one image has one name in every table (the leak rule compares names).
        check: whether a missing file is an error now; otherwise it is one when the image is opened.
        extension: added to names without a known image extension, such as ``.jpg``.
    """

    root: Path
    check: bool = True
    extension: str = ""

    @classmethod
    def at(cls, root: str | Path, check: bool, extension: str = "") -> ImageFolder:
        """The folder under its resolved name; `extension` with or without its dot."""
        dotted = extension if not extension or extension.startswith(".") else f".{extension}"
        return cls(Path(root).expanduser().resolve(), check, dotted)

    def ref(self, name: str) -> ImageRef:
        """The image called `name`; ``arrays.npz#images/3`` names an item of an array.

        Raises:
            ValueError: the name is a URL, a network path or holds control characters, it leads out of the folder, or (with
                `check`) there is no such file.
        """
        if fault := name_fault(name):
            raise ValueError(f"image {name[:60]!r} {fault}")
        named = ImageRef.parse(name)
        root = str(self.root)
        path = os.path.normpath(os.path.join(root, named.path))  # noqa: PTH118 - pathlib is 5 times slower, rows are millions
        if named.array is None and not path.lower().endswith(SUFFIXES):
            path += self.extension
        if not path.startswith(root.rstrip(os.sep) + os.sep):
            raise ValueError(f"image {name!r} lies outside the image folder {self.root}")
        if self.check and not os.path.isfile(path):  # noqa: PTH113
            raise ValueError(f"image {name!r} is not there: no file {path} (check_images: false postpones this check)")
        return ImageRef(path, named.array, named.index)
