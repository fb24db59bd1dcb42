"""MedMNIST ``.npz`` files of any size (28, 64, 128, 224): classification as closed questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import read_json
from medrag_lightning.data.arrays import ArrayHeader, read_array, read_headers
from medrag_lightning.data.rows import BadRowsError
from medrag_lightning.data.tables.answers import YES_NO
from medrag_lightning.data.tables.medmnist_tasks import TASKS, Task
from medrag_lightning.records import AnswerType, Document, ImageRef, Query, Split


class MedMnist:
    """A 2D set of MedMNIST v2, or any file of the same layout: `{train,val,test}_images` and `_labels`.

    A set with one label an image becomes one closed question an image, whose choices are the class names. A set with several
    (ChestMNIST) becomes one yes/no question for each label of each image. Ids are ``{flag}-{split}-{number}`` at every image
    size, so the 224-pixel copy of an image never serves as evidence for its 28-pixel copy; patients are not known.

    Args:
        path: the ``.npz`` file.
        flag: name of the set; by default the file's name up to the first ``_`` (``breastmnist_224.npz`` is ``breastmnist``).
        class_names: names of the labels, in order. By default those of `medmnist_tasks.TASKS`, or of an `info.json` beside the
            file.
        question: the question; in a multi-label set ``{label}`` is filled in.
        finding: what a document's text starts with: ``diagnosis`` gives "diagnosis: malignant".
        modality: such as ``ultrasound``.
        labels: for multi-label sets: the class names to ask about; by default all.
    """

    def __init__(
        self,
        path: str,
        flag: str | None = None,
        class_names: list[str] | None = None,
        question: str | None = None,
        finding: str | None = None,
        modality: str | None = None,
        labels: list[str] | None = None,
    ) -> None:
        self.path = Path(path).expanduser().resolve()
        self.flag = flag or self.path.stem.split("_")[0]
        self.task = _task(self.path, self.flag, class_names)
        if question is not None:
            self.task = replace(self.task, question=question)
        if finding is not None:
            self.task = replace(self.task, finding=finding)
        if modality is not None:
            self.task = replace(self.task, modality=modality)
        self.labels = labels
        unknown = sorted(set(labels or ()) - set(self.task.class_names))
        if unknown:
            raise ValueError(f"labels: unknown class names {unknown}; the set has {', '.join(self.task.class_names)}")
        self._labels_NC: dict[Split, NDArray[Any]] | None = None

    def queries(self) -> list[Query]:
        """Train, val and test questions, in this order, each in file order."""
        label_arrays = self._read_labels()
        if self._multi_label():
            items = ((split, n) for split, values in label_arrays.items() for n in range(len(values)))
            return [query for split, n in items for query in self._ask_each(split, n)]
        names = self.task.class_names
        return [
            Query(
                id=f"{self.flag}-{split}-{n}",
                question=self.task.question,
                image=self._image(split, n),
                answer=names[int(label)],
                choices=names,
                answer_type=AnswerType.CLOSED,
                split=split,
                modality=self.task.modality or None,
                source=self.flag,
            )
            for split, values in label_arrays.items()
            for n, label in enumerate(values[:, 0])
        ]

    def documents(self) -> list[Document]:
        """The training images, each with a text that states its label or labels."""
        train = self._read_labels()[Split.TRAIN]
        return [
            Document(
                id=f"{self.flag}-{Split.TRAIN}-{n}",
                text=f"{self.task.finding}: {self._stated(labels)}",
                image=self._image(Split.TRAIN, n),
                modality=self.task.modality or None,
                source=self.flag,
            )
            for n, labels in enumerate(train)
        ]

    def roots(self) -> list[Path]:
        """The file's folder."""
        return [self.path.parent]

    def _image(self, split: Split, n: int) -> ImageRef:
        return ImageRef(str(self.path), f"{split}_images", n)

    def _stated(self, labels_C: NDArray[Any]) -> str:
        names = self.task.class_names
        if not self._multi_label():
            return names[int(labels_C[0])]
        return ", ".join(name for name, present in zip(names, labels_C, strict=True) if present) or "none"

    def _ask_each(self, split: Split, n: int) -> list[Query]:
        labels_C = self._read_labels()[split][n]
        return [
            Query(
                id=f"{self.flag}-{split}-{n}-{name.replace(' ', '_')}",
                question=self.task.question.replace("{label}", name),
                image=self._image(split, n),
                answer="yes" if present else "no",
                choices=YES_NO,
                answer_type=AnswerType.CLOSED,
                split=split,
                modality=self.task.modality or None,
                source=self.flag,
            )
            for name, present in zip(self.task.class_names, labels_C, strict=True)
            if self.labels is None or name in self.labels
        ]

    def _multi_label(self) -> bool:
        return int(self._read_labels()[Split.TRAIN].shape[1]) > 1

    def _read_labels(self) -> dict[Split, NDArray[Any]]:
        """Labels (N, 1) or (N, C) of every split, checked against images and class names."""
        if self._labels_NC is None:
            headers = read_headers(self.path)
            found: dict[Split, NDArray[Any]] = {}
            faults: list[str] = []
            for split in Split:
                found[split] = self._check_split(headers, split, faults)
            if self.labels is not None and not faults and found[Split.TRAIN].shape[1] == 1:
                faults.append(f"{self.path}: labels: is only for multi-label sets, this one has one label an image; remove it")
            if faults:
                raise BadRowsError(type(self).__name__, faults)
            self._labels_NC = found
        return self._labels_NC

    def _check_split(self, headers: dict[str, ArrayHeader], split: Split, faults: list[str]) -> NDArray[Any]:
        empty = np.zeros((0, 1), np.int64)
        missing = [name for name in (f"{split}_images", f"{split}_labels") if name not in headers]
        if missing:
            faults.append(f"{self.path}: there is no array {' or '.join(missing)}; it holds {', '.join(headers) or 'none'}")
            return empty
        shape = headers[f"{split}_images"].shape
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
            faults.append(
                f"{self.path}: {split}_images has shape {shape}; 2D sets are (N, H, W) or (N, H, W, 3), 3D sets are not read"
            )
        labels = read_array(self.path, f"{split}_labels")
        labels = labels[:, None] if labels.ndim == 1 else labels
        classes = len(self.task.class_names)
        fits = labels.ndim == 2 and labels.shape[0] == shape[0] and labels.shape[1] in (1, classes)
        if not fits or labels.dtype.kind not in "iub":
            faults.append(
                f"{self.path}: {split}_labels is {labels.dtype} {labels.shape} for {shape[0]} images and {classes} class names"
            )
            return empty
        top = 1 if labels.shape[1] > 1 else classes - 1
        bad = np.flatnonzero(((labels < 0) | (labels > top)).any(axis=1))
        faults.extend(f"{self.path}#{split}_labels/{n}: label {labels[n].tolist()} is not in 0..{top}" for n in bad)
        return labels


def _task(path: Path, flag: str, class_names: list[str] | None) -> Task:
    """The built-in task, or one made of the given names, or of an `info.json` beside the file."""
    known = TASKS.get(flag)
    if class_names is not None:
        named = tuple(class_names)
        base = known or Task((), "what does this image show?", "label", "")
        task = replace(base, class_names=named)
    elif known is not None:
        task = known
    elif (path.parent / "info.json").is_file():
        task = Task(_info_names(path.parent / "info.json"), "what does this image show?", "label", "")
    else:
        raise ValueError(f"{path}: unknown set {flag!r}; give class_names, or flag as one of {', '.join(TASKS)}")
    if len(task.class_names) < 2 or len(set(task.class_names)) != len(task.class_names):
        raise ValueError(f"{path}: class_names must be two or more different names, got {list(task.class_names)}")
    return task


def _info_names(path: Path) -> tuple[str, ...]:
    info = read_json(path)
    names = info.get("label") if isinstance(info, dict) else None
    if not isinstance(names, dict) or sorted(names) != sorted(str(n) for n in range(len(names))):
        raise ValueError(f"{path}: key 'label' must map '0', '1', ... to class names")
    return tuple(str(names[str(n)]).replace(", ", " or ") for n in range(len(names)))
