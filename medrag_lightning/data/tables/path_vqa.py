"""PathVQA (He et al., 2020): questions about pathology figures."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, parse_rows
from medrag_lightning.data.tables.answers import answered_documents, closed_answer, log_closed
from medrag_lightning.data.tables.image_folder import ImageFolder
from medrag_lightning.data.tables.our_jsonl import EVIDENCE_TEXT
from medrag_lightning.records import AnswerType, Document, Query, Split

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
STEMS = ("{split}", "{split}_qa", "qas/{split}", "qas/{split}_qa", "qas/{split}/{split}_qa")


class PathVqa:
    """PathVQA, exported from its pickles: per split one file of rows with `image`, `question` and `answer`.

    Files are looked for as ``train``, ``train_qa``, ``qas/train_qa`` or ``qas/train/train_qa`` (likewise val and test) with the
    suffix .jsonl, .json, .parquet or .csv. The published pickles are refused: opening a pickle runs code. Parquet files that
    hold the image bytes themselves are refused too: extract the images to files. `image` is a name such as ``train_0422`` under
    ``images/train``. A question answered yes or no is closed, every other one is open (the data set does not mark them).

    Args:
        root: the folder of the data set.
        files: split to file (relative to `root`), where they have other names.
        image_folder: where images lie under `root`; ``{split}`` is filled in.
        image_extension: added to image names without one.
        evidence_text: what a document says; ``{question}`` and ``{answer}`` are filled in.
        check_images: whether missing image files are errors when the table is read.
    """

    def __init__(
        self,
        root: str,
        files: dict[str, str] | None = None,
        image_folder: str = "images/{split}",
        image_extension: str = ".jpg",
        evidence_text: str = EVIDENCE_TEXT,
        check_images: bool = True,
    ) -> None:
        for split in files or {}:
            if split not in list(Split):
                raise ValueError(f"files: unknown split {split!r}; expected train, val or test")
        self.root = Path(root).expanduser()
        self.files, self.evidence_text = dict(files or {}), evidence_text
        self.images = {
            split: ImageFolder.at(self.root / image_folder.replace("{split}", split), check_images, image_extension)
            for split in Split
        }
        self._queries: list[Query] | None = None

    def queries(self) -> list[Query]:
        """The questions of train, val and test, in this order."""
        if self._queries is None:
            files = {self._find(split): split for split in Split if not self.files or split in self.files}
            rows = chain.from_iterable(read_rows(path) for path in files)
            self._queries = parse_rows(rows, lambda row: self._parse(row, files[row.path]), type(self).__name__)
            log_closed(type(self).__name__, self._queries, [])
        return list(self._queries)

    def documents(self) -> list[Document]:
        """The training questions with their answers and images."""
        return answered_documents(self.queries(), self.evidence_text)

    def roots(self) -> list[Path]:
        """The image folders of the three splits."""
        return list(dict.fromkeys(folder.root for folder in self.images.values()))

    def _find(self, split: Split) -> Path:
        if split in self.files:
            return self.root / self.files[split]
        stems = [self.root / stem.replace("{split}", split) for stem in STEMS]
        found = [path for stem in stems for suffix in SUFFIXES if (path := stem.with_name(stem.name + suffix)).is_file()]
        if len(found) > 1:
            listed = ", ".join(map(str, found))
            raise ValueError(f"{self.root}: several files could be the {split} split ({listed}); name one in files")
        if found:
            return found[0]
        pickled = next((path for stem in stems if (path := stem.with_name(stem.name + ".pkl")).is_file()), None)
        if pickled:
            raise ValueError(
                f"{pickled}: a pickle runs code when it is opened, so it is refused; export it once, where you trust it, to "
                f"{pickled.with_suffix('.json').name} (a list of objects with image, question, answer)"
            )
        raise ValueError(f"{self.root}: no file for the {split} split ({split}.jsonl, {split}_qa.json, ...); name it in files")

    def _parse(self, row: Row, split: Split) -> list[Query]:
        if isinstance(row.values.get("image"), dict):
            raise ValueError("key 'image' holds the image itself; extract the images to files and put their names there")
        question = row.text("question")
        choices, answer = closed_answer(question, row.text("answer"), marked_closed=False)
        return [
            Query(
                id=f"pathvqa-{split}-{row.line}",
                question=question,
                image=self.images[split].ref(row.text("image")),
                answer=answer,
                choices=choices,
                answer_type=AnswerType.CLOSED if choices else AnswerType.OPEN,
                split=split,
                source="path_vqa",
            )
        ]
