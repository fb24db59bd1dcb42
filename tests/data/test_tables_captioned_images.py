"""Pictures with captions become documents, and copies of one picture find each other however they are saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.tables import CaptionedImages
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import ImageRef, Query
from medrag_lightning.retrieval.source import LiveSearch


def picture(seed: int, noise: int = 0) -> Image.Image:
    """A grey picture of a look of its own, a little changed by `noise`."""
    base = np.random.default_rng(seed).integers(0, 256, (6, 6)).repeat(8, 0).repeat(8, 1)
    added = np.random.default_rng([seed, noise]).integers(-6, 7, base.shape) if noise else 0
    return Image.fromarray(np.clip(base + added, 0, 255).astype(np.uint8))


def folder_at(folder: Path) -> Path:
    (folder / "chest").mkdir(parents=True)
    picture(1).save(folder / "chest" / "a.png")
    (folder / "chest" / "a.txt").write_text("A nodule\nin the left lung.", encoding="utf-8")
    picture(2).save(folder / "b.jpg")
    told = {"caption": "A cyst.", "patient_id": "7", "license": "CC0", "modality": "CT", "url": "https://wiki.test/b"}
    (folder / "b.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def test_captions_beside_pictures(tmp_path: Path) -> None:
    table = CaptionedImages(str(folder_at(tmp_path / "atlas")), license="CC BY")
    b, a = table.documents()
    assert (a.id, a.text, a.license, a.origin) == ("atlas-chest/a.png", "A nodule in the left lung.", "CC BY", "chest/a.png")
    assert (b.id, b.text, b.license, b.origin) == ("atlas-b.jpg", "A cyst.", "CC0", "https://wiki.test/b")
    assert (b.patient_id, b.modality, b.source, b.corpus) == ("atlas:7", "CT", "atlas", "reports")
    assert table.roots() == [(tmp_path / "atlas").resolve()]
    assert table.queries() == []


def test_captions_in_one_file(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "atlas")
    (folder / "c.csv").write_text("file,words\nb.jpg,one\nchest/a.png,two\n")
    table = CaptionedImages(str(folder), "c.csv", fields={"image": "file", "caption": "words"})
    assert [(d.id, d.text) for d in table.documents()] == [("atlas-b.jpg", "one"), ("atlas-chest/a.png", "two")]
    (folder / "c.jsonl").write_text(
        '{"image": "b.jpg", "caption": "one"}\n{"image": "gone.png", "caption": "x"}\n{"image": "b.jpg"}\n'
    )
    with pytest.raises(ValueError, match=r"2 bad rows") as error:
        CaptionedImages(str(folder), "c.jsonl").documents()
    assert "c.jsonl:2: image 'gone.png' is not there" in str(error.value)
    assert "c.jsonl:3: picture 'b.jpg' has no caption" in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("chest/gone.txt", b"caption", "gone.txt:1: a caption without its picture"),
        ("chest/a.json", b"{}", "a.png:1: it has two captions, a.txt and a.json"),
        ("b.json", b'{"caption": ""}', "b.json:1: picture 'b.jpg' has no caption"),
        ("b.json", b'{"caption": NaN}', "b.json:1: picture 'b.jpg' has no caption"),
        ("b.json", b'{\n"caption": }', "b.json:2: not valid JSON"),
        ("b.json", b"[]", "b.json:1: expected a JSON object, got a list"),
        ("b.json", b'{"caption": "x", "patient": "7"}', "did you mean 'patient_id'"),
        ("chest/a.txt", b"\xff", "a.txt:1: not UTF-8"),
    ],
)
def test_what_is_wrong_is_told_with_its_file(tmp_path: Path, file: str, content: bytes, told: str) -> None:
    folder = folder_at(tmp_path / "atlas")
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match="1 bad row") as error:
        CaptionedImages(str(folder)).documents()
    assert told in str(error.value)


def test_pictures_without_a_caption_may_be_kept(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "atlas")
    picture(3).save(folder / "c.png")
    with pytest.raises(ValueError, match=r"c.png:1: picture 'c.png' has no caption"):
        CaptionedImages(str(folder)).documents()
    kept = CaptionedImages(str(folder), without_caption="keep").documents()
    assert [document.text for document in kept] == ["A cyst.", "", "A nodule in the left lung."]
    with pytest.raises(ValueError, match="fields would be ignored"):
        CaptionedImages(str(folder), fields={"image": "file"})


def saved_as(mode: str, image: Image.Image, path: Path) -> ImageRef:
    """The same picture in another mode, without loss (a grey palette holds every grey value)."""
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path) if mode == "P" else image.convert(mode).save(path)
    return ImageRef(str(path))


def test_copies_in_every_mode_are_one_vector_and_find_each_other_first(tmp_path: Path) -> None:
    """Trap 6: the published index converted to RGB when it was built and not when it was asked."""
    folder = tmp_path / "atlas"
    folder.mkdir()
    for seed in range(8):
        picture(seed).convert("RGB").save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(f"picture {seed}")
    table = CaptionedImages(str(folder))
    open_image = ImageStore([tmp_path])
    source = LiveSearch(TinyDualEncoder(dim=64), {"image_to_image": 1})
    source.prepare(table.documents(), open_image, tmp_path / "store")
    source.load(table.documents(), open_image, tmp_path / "store")
    stored = source.document_vectors("image", [document.id for document in table.documents()])
    for mode in ("L", "RGB", "RGBA", "LA", "P", "I;16"):
        for seed in range(8):
            copy = picture(seed)
            if mode == "I;16":  # windowed by its own darkest and brightest value, so the copy must have all of both
                pixels = np.asarray(copy, np.float64)
                wide = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * 65535
                path = tmp_path / f"{seed}.tiff"
                Image.fromarray(wide.astype(np.uint16)).save(path)
                ref = ImageRef(str(path))
            else:
                ref = saved_as(mode, copy, tmp_path / f"{mode}{seed}.png")
                np.testing.assert_array_equal(np.asarray(open_image(ref)), np.asarray(copy.convert("RGB")))
            vector = source.encoder.embed_images([open_image(ref)])[0]
            assert int(np.argmax(stored @ vector)) == seed
    for mode in ("L", "RGB", "RGBA", "P"):  # a copy of equal pixels is never evidence (leak rule), a rescan is
        queries = [Query(f"q{n}", "?", saved_as(mode, picture(n, noise=1), tmp_path / f"q{mode}{n}.png")) for n in range(8)]
        found = [one.candidates[0].id for one in source.retrieve(queries)]
        assert found == [f"atlas-{n}.png" for n in range(8)]


def test_a_picture_is_upright_in_the_store_and_in_a_question(tmp_path: Path) -> None:
    turned = picture(4).rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to see it"
    turned.save(tmp_path / "turned.png", exif=exif)
    picture(4).save(tmp_path / "upright.png")
    open_image = ImageStore([tmp_path])
    upright, seen = (np.asarray(open_image(ImageRef(str(tmp_path / name)))) for name in ("upright.png", "turned.png"))
    np.testing.assert_array_equal(upright, seen)
