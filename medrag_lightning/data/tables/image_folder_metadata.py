"""An image folder with a metadata table, as HAM10000 comes: one label an image, a closed question."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medrag_lightning.data.arrays import read_array, read_headers
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import BadRowsError, Row, parse_rows, read_split
from medrag_lightning.data.tables.image_folder import ImageFolder
from medrag_lightning.data.tables.our_jsonl import scoped
from medrag_lightning.records import AnswerType, Document, ImageRef, Query, Split


class ImageFolderMetadata:
    """Labelled images listed in a CSV, TSV, JSON, JSONL or parquet file.

    Args:
        metadata: the table.
        image_root: the image folder; by default the table's own folder.
        id_column: unique name of an image (HAM10000's CSV: ``image_id``).
        image_column: its file (HAM10000's CSV: ``image_id`` too, with `image_extension`).
        image_extension: added to image names without one, such as ``.jpg``.
        label_column: its label (HAM10000: ``dx``).
        class_names: label as written in the table to the name used in answers, in the order of the choices. By default the
            labels themselves, sorted.
        split_column: column of the split; None when the table has none, then `split` says what all rows are.
        split: the split of all rows when `split_column` is None.
        study_column: what groups images that must not serve as evidence for each other (HAM10000: ``lesion_id``).
        patient_column: the patient, where it is known.
        npz: take the images from this file instead: `{split}_images` in the order of the table's rows within each split (such
            as ``ham10000_28.npz``). Counts, and labels where the file has them, must agree.
        question: the question asked of every image.
        finding: what a document's text starts with: ``diagnosis`` gives "diagnosis: melanoma".
        modality: such as ``dermatoscopy``.
        dataset: name of the data set; by default the name of the table's folder.
        check_images: whether missing image files are errors when the table is read.
    """

    def __init__(
        self,
        metadata: str,
        image_root: str | None = None,
        id_column: str = "id",
        image_column: str = "image",
        image_extension: str = "",
        label_column: str = "label",
        class_names: dict[str, str] | None = None,
        split_column: str | None = "split",
        split: str | None = None,
        study_column: str | None = None,
        patient_column: str | None = None,
        npz: str | None = None,
        question: str = "what does this image show?",
        finding: str = "diagnosis",
        modality: str | None = None,
        dataset: str | None = None,
        check_images: bool = True,
    ) -> None:
        if (split_column is None) == (split is None):
            raise ValueError("give either split_column, or split_column: null and split for the whole table")
        if npz is not None and (image_root is not None or image_extension):
            raise ValueError("with npz the images come from that file; remove image_root and image_extension")
        self.path = Path(metadata)
        self.id_column, self.image_column, self.label_column = id_column, image_column, label_column
        self.study_column, self.patient_column = study_column, patient_column
        self.split_column, self.split = split_column, None if split is None else read_split("split", split)
        self.class_names = None if class_names is None else dict(class_names)
        self.npz = None if npz is None else Path(npz).expanduser().resolve()
        self.question, self.finding, self.modality = question, finding, modality
        self.dataset = dataset or self.path.resolve().parent.name
        self.images = ImageFolder.at(image_root or self.path.parent, check_images, image_extension)
        self._queries: list[Query] | None = None

    def queries(self) -> list[Query]:
        """One closed question an image, in file order."""
        if self._queries is None:
            rows = list(read_rows(self.path))
            names = self._names(rows)
            counts: Counter[Split] = Counter()
            labels: dict[Split, list[str]] = {split: [] for split in Split}

            def parse(row: Row) -> list[Query]:
                query = self._parse(row, names, counts)
                labels[query.split].append(row.text(self.label_column))
                return [query]

            queries = parse_rows(rows, parse, type(self).__name__)
            if self.npz is not None:
                self._check_npz(labels)
            self._queries = queries
        return list(self._queries)

    def documents(self) -> list[Document]:
        """The training images, each with a text that states its label."""
        return [
            Document(
                id=query.id,
                text=f"{self.finding}: {query.answer}",
                image=query.image,
                patient_id=query.patient_id,
                study_id=query.study_id,
                modality=query.modality,
                source=query.source,
            )
            for query in self.queries()
            if query.split is Split.TRAIN
        ]

    def roots(self) -> list[Path]:
        """The folder of the images, or of the .npz file."""
        return [self.images.root if self.npz is None else self.npz.parent]

    def _names(self, rows: list[Row]) -> dict[str, str]:
        if self.class_names is not None:
            return self.class_names
        found = {str(value).strip() for row in rows if (value := row.values.get(self.label_column)) is not None}
        return {label: label for label in sorted(found, key=lambda text: text.zfill(9) if text.isdigit() else text)}

    def _parse(self, row: Row, names: dict[str, str], counts: Counter[Split]) -> Query:
        label = row.text(self.label_column)
        if label not in names:
            raise ValueError(f"key {self.label_column!r} is {label!r}; class_names has {', '.join(names)}")
        split = self.split if self.split_column is None else row.split(self.split_column)
        assert split is not None
        number = counts[split]
        counts[split] += 1
        if self.npz is None:
            image = self.images.ref(row.text(self.image_column))
        else:
            image = ImageRef(str(self.npz), f"{split}_images", number)
        return Query(
            id=row.text(self.id_column),
            question=self.question,
            image=image,
            answer=names[label],
            choices=tuple(names.values()),
            answer_type=AnswerType.CLOSED,
            split=split,
            patient_id=scoped(self.dataset, row.text(self.patient_column)) if self.patient_column else None,
            study_id=scoped(self.dataset, row.text(self.study_column)) if self.study_column else None,
            modality=self.modality,
            source=self.dataset,
        )

    def _check_npz(self, labels: dict[Split, list[str]]) -> None:
        """Refuses an .npz file whose images cannot be those of the table: other counts, or labels that do not correspond."""
        assert self.npz is not None
        headers = read_headers(self.npz)
        faults: list[str] = []
        number_of_label: dict[str, int] = {}
        for split, texts in labels.items():
            held = headers[f"{split}_images"].shape[0] if f"{split}_images" in headers else 0
            if held != len(texts):
                faults.append(f"{self.npz}: {split}_images holds {held} images, {self.path} has {len(texts)} {split} rows")
            elif f"{split}_labels" in headers:
                for n, (text, number) in enumerate(zip(texts, read_array(self.npz, f"{split}_labels").ravel(), strict=True)):
                    if number_of_label.setdefault(text, int(number)) != number:
                        faults.append(f"{self.npz}#{split}_labels/{n}: label {number}, but {self.path} says {text!r} there")
        if len(set(number_of_label.values())) != len(number_of_label):
            faults.append(f"{self.npz}: two labels of {self.path} share a number: {number_of_label}")
        if faults:
            raise BadRowsError(type(self).__name__, faults, "the two files are not in the same order")
