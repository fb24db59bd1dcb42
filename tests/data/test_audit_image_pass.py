"""One pass over images finds every broken one, tells which kind it is, and knows the sound ones by pixels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from audit_files import encoded, picture, write_broken, write_dicoms
from PIL import Image
from test_dicom import write_dicom

from medrag_lightning.data.audit import image_pass
from medrag_lightning.data.audit.image_pass import THUMBNAIL_PX, image_facts
from medrag_lightning.data.images import ImageStore
from medrag_lightning.records import ImageRef

LIMIT = 1_000_000


def refs_in(folder: Path) -> list[ImageRef]:
    return [ImageRef(str(path)) for path in sorted(folder.iterdir())]


def test_every_broken_file_is_found_and_named(tmp_path: Path) -> None:
    expected = write_broken(tmp_path)
    facts = image_facts(refs_in(tmp_path), [tmp_path], LIMIT, workers=0)
    assert {Path(ref.path): told.kind for ref, told in facts.items()} == expected
    for ref, told in facts.items():
        assert told.fault
        assert str(tmp_path) not in told.fault
        assert Path(ref.path).name not in told.fault
        assert told.thumbnail_HW is None
        with pytest.raises(ValueError):
            ImageStore([tmp_path], LIMIT)(ref)


def test_every_broken_dicom_is_found_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = write_dicoms(tmp_path, write_dicom)
    sound = write_dicom(tmp_path / "sound.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8))
    facts = image_facts([ImageRef(str(path)) for path in [*expected, tmp_path / "sound.dcm"]], [tmp_path], LIMIT, workers=0)
    assert not caplog.records
    told = facts.pop(sound)
    assert (told.fault, told.kind, told.size_px) == (None, None, (8, 8))
    assert {Path(ref.path): one.kind for ref, one in facts.items()} == expected
    assert all("Doe" not in str(one.fault) and "SECRET" not in str(one.fault) for one in facts.values())
    syntax = facts[ImageRef(str(tmp_path / "syntax.dcm"))].fault
    assert syntax is not None
    assert "JPEG 2000" in syntax


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    picture().save(tmp_path / "inside" / "Scan.PNG")
    picture().save(tmp_path / "outside.png")
    (tmp_path / "inside" / "folder.png").mkdir()
    (tmp_path / "inside" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "inside" / "leads_out.png").symlink_to(tmp_path / "outside.png")
    os.mkfifo(tmp_path / "inside" / "pipe.png")
    cases = {
        "inside/scan.png": ("image_missing", "capital letters"),
        "inside/Scan.jpg": ("image_missing", "with the ending .png"),
        "inside/gone.png": ("image_missing", "no such image file"),
        "inside/folder.png": ("image_missing", "a folder has the name"),
        "inside/dangling.png": ("image_outside", "outside"),
        "inside/leads_out.png": ("image_outside", "outside the folders"),
        "inside/../outside.png": ("image_outside", "outside the folders"),
        "inside/pipe.png": ("image_missing", "not a regular file"),
        "inside/a\0b.png": ("image_outside", "NUL"),
    }
    facts = image_facts([ImageRef(f"{tmp_path}/{name}") for name in cases], [tmp_path / "inside"], workers=0)
    for (name, (kind, words)), told in zip(cases.items(), facts.values(), strict=True):
        assert (told.kind, words in str(told.fault)) == (kind, True), (name, told)


def test_sound_images_are_known_by_bytes_and_pixels(tmp_path: Path) -> None:
    image = picture(width=200, height=150)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.tif")
    image.save(tmp_path / "c.jpg", quality=95)
    shutil.copy(tmp_path / "a.png", tmp_path / "d.png")
    (tmp_path / "e.jpg").write_bytes(encoded(image, "PNG"))
    Image.new("L", (30, 20), 7).save(tmp_path / "f.png")
    a, b, c, d, e, f = image_facts(refs_in(tmp_path), [tmp_path], workers=0).values()
    assert a.pixels_sha256 == b.pixels_sha256 == d.pixels_sha256 == e.pixels_sha256 != c.pixels_sha256
    assert a.bytes_sha256 == d.bytes_sha256 != b.bytes_sha256
    assert [one.kind for one in (a, b, c, d, e, f)] == [None, None, None, None, "image_misnamed", "image_blank"]
    assert e.remark == "the name ends with .jpg, but the file is a PNG"
    assert e.fault is None
    assert a.size_px == (200, 150)
    for one in (a, b, c, f):
        assert one.thumbnail_HW is not None
        assert (one.thumbnail_HW.shape, one.thumbnail_HW.dtype) == ((THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    assert np.abs(a.thumbnail_HW.astype(int) - c.thumbnail_HW).mean() < 3  # type: ignore[union-attr, operator]


def test_items_of_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=images)
    Image.fromarray(images[1]).save(tmp_path / "one.png")
    path = str(tmp_path / "a.npz")
    refs = [ImageRef(path, "images", 1), ImageRef(path, "images", 3), ImageRef(path, "other", 0)]
    refs.append(ImageRef(str(tmp_path / "one.png")))
    facts = image_facts(refs, [tmp_path], workers=0)
    assert facts[refs[0]].pixels_sha256 == facts[refs[3]].pixels_sha256
    assert facts[refs[0]].size_px == (28, 28)
    assert [facts[ref].kind for ref in refs[1:3]] == ["image_array", "image_array"]
    assert str(tmp_path) not in str(facts[refs[1]].fault)


def test_processes_give_what_one_gives_in_the_same_order(tmp_path: Path) -> None:
    for number in range(80):
        picture(number, 20, 20).save(tmp_path / f"{number:03}.png")
    np.savez(tmp_path / "z.npz", images=np.zeros((4, 9, 9), np.uint8))
    (tmp_path / "010.png").write_bytes(b"")
    refs = [ref for ref in refs_in(tmp_path) if ref.path.endswith("png")]
    refs += [ImageRef(str(tmp_path / "z.npz"), "images", number) for number in range(4)]
    told: list[tuple[int, int]] = []
    alone = image_facts(refs, [tmp_path], workers=0)
    both = image_facts([*refs, *refs], [tmp_path], workers=2, progress=lambda done, total: told.append((done, total)))
    assert list(alone) == list(both) == refs
    for ref in refs:
        assert (alone[ref].pixels_sha256, alone[ref].kind) == (both[ref].pixels_sha256, both[ref].kind)
    assert told == [(n, 84) for n in range(1, 85)]


def test_a_decoder_that_crashes_is_blamed_on_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(70):
        picture(number, 20, 20).save(tmp_path / f"{number:03}.png")
    look = image_pass._look

    def crashing(ref: ImageRef, store: ImageStore) -> image_pass.ImageFacts:
        if ref.path.endswith("042.png"):
            os._exit(11)
        return look(ref, store)

    monkeypatch.setattr(image_pass, "_look", crashing)
    monkeypatch.setattr(image_pass, "_start_method", lambda: "fork")
    facts = image_facts(refs_in(tmp_path), [tmp_path], workers=2)
    assert [Path(ref.path).name for ref, told in facts.items() if told.fault] == ["042.png"]
    assert len(facts) == 70


def test_what_is_known_of_unchanged_files_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        picture(number).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "2.png").write_bytes(b"")
    refs, cache = refs_in(tmp_path / "images"), tmp_path / "cache"
    looked: list[str] = []
    look = image_pass._look
    monkeypatch.setattr(image_pass, "_look", lambda ref, store: looked.append(Path(ref.path).name) or look(ref, store))

    def again() -> dict[ImageRef, image_pass.ImageFacts]:
        looked.clear()
        return image_facts(refs, [tmp_path / "images"], workers=0, cache_folder=cache)

    first = again()
    assert len(looked) == 4
    second = again()
    assert looked == ["2.png"]  # broken ones are looked at again
    for ref in refs:
        np.testing.assert_equal(second[ref].thumbnail_HW, first[ref].thumbnail_HW)
        assert (second[ref].size_px, second[ref].pixels_sha256) == (first[ref].size_px, first[ref].pixels_sha256)
    picture(9).save(tmp_path / "images" / "1.png")
    os.utime(tmp_path / "images" / "1.png", (1, 1))
    again()
    assert looked == ["1.png", "2.png"]
    (file,) = cache.iterdir()
    assert str(tmp_path).encode() not in file.read_bytes()
    file.write_bytes(file.read_bytes()[:-200])
    assert again()[refs[0]].pixels_sha256 == first[refs[0]].pixels_sha256
    assert len(looked) == 4


def test_an_interrupted_look_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        picture(number).save(tmp_path / "images" / f"{number}.png")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    refs = refs_in(tmp_path / "images")
    with pytest.raises(KeyboardInterrupt):
        image_facts(refs, [tmp_path], workers=0, progress=stop, cache_folder=tmp_path / "cache")
    told: list[int] = []
    image_facts(refs, [tmp_path], workers=0, progress=lambda done, total: told.append(done), cache_folder=tmp_path / "cache")
    assert told == [4]
