"""Images are opened by rule or refused by name; nothing large, foreign, damaged or outside the roots is ever decoded."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medrag_lightning.data.images import ImageStore, to_rgb, window_to_uint8
from medrag_lightning.records import ImageRef


def save(image: Image.Image, path: Path, **options: object) -> ImageRef:
    image.save(path, **options)
    return ImageRef(str(path))


def forged_png(path: Path, width: int, height: int) -> ImageRef:
    """A PNG whose header claims a size, with no pixel data that could be decoded behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + b"\xff" * 8, b"IEND"]
    packed = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + packed)
    return ImageRef(str(path))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_four_formats_open_as_rgb(tmp_path: Path, suffix: str) -> None:
    ref = save(Image.new("RGB", (9, 6), (200, 30, 60)), tmp_path / f"a{suffix}")
    store = ImageStore([tmp_path])
    image = store(ref)
    assert (image.mode, image.size) == ("RGB", (9, 6))
    assert np.abs(np.asarray(image)[2, 2].astype(int) - [200, 30, 60]).max() <= 6
    assert store.size_px(ref) == (9, 6)


def test_size_limit_holds_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = forged_png(tmp_path / "big.png", 9000, 9000)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded before the size was checked"))
    with pytest.raises(ValueError, match=r"big\.png: 9000 x 9000 pixels.*max_pixels"):
        ImageStore([tmp_path])(ref)


def test_sizes_beyond_pillows_own_limit_are_refused_alike(tmp_path: Path) -> None:
    ref = forged_png(tmp_path / "huge.png", 60000, 60000)
    with pytest.raises(ValueError, match=r"huge\.png.*max_pixels"):
        ImageStore([tmp_path])(ref)


@pytest.mark.parametrize(
    ("name", "data"),
    [("empty.png", b""), ("text.png", b"not an image"), ("a.pdf", b"%PDF-1.4\n"), ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n")],
)
def test_other_files_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=name):
        ImageStore([tmp_path])(ImageRef(str(tmp_path / name)))


def test_gif_is_not_on_the_list(tmp_path: Path) -> None:
    ref = save(Image.new("L", (4, 4)), tmp_path / "a.gif")
    with pytest.raises(ValueError, match="not an image of a known kind"):
        ImageStore([tmp_path])(ref)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_damaged_images_name_the_file(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ref = save(Image.fromarray(noise), tmp_path / f"cut{suffix}")
    data = Path(ref.path).read_bytes()
    for length in (len(data) // 2, 40, 12):
        Path(ref.path).write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"cut{suffix}"):
            ImageStore([tmp_path])(ref)


def test_paths_stay_under_the_roots(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    outside = save(Image.new("L", (4, 4)), tmp_path / "secret.png")
    (tmp_path / "in" / "link.png").symlink_to(outside.path)
    (tmp_path / "in" / "good.png").symlink_to(save(Image.new("L", (4, 4)), tmp_path / "in" / "real.png").path)
    store = ImageStore([tmp_path / "in"])
    for path in (outside.path, str(tmp_path / "in" / ".." / "secret.png"), str(tmp_path / "in" / "link.png")):
        with pytest.raises(ValueError, match="outside the declared roots"):
            store(ImageRef(path))
    assert store(ImageRef(str(tmp_path / "in" / "good.png"))).size == (4, 4)
    with pytest.raises(ValueError, match="no such image file"):
        store(ImageRef(str(tmp_path / "in" / "missing.png")))


def test_sixteen_bit_grey_is_windowed_by_its_own_range(tmp_path: Path) -> None:
    values = np.array([[1000, 2000], [1500, 3000]], np.uint16)
    for suffix in (".png", ".tif"):
        ref = save(Image.fromarray(values), tmp_path / f"wide{suffix}")
        grey = np.asarray(ImageStore([tmp_path])(ref))[..., 0]
        assert grey.tolist() == [[0, 128], [64, 255]]


def test_windowing_of_flat_and_not_finite_values() -> None:
    assert window_to_uint8(np.full((2, 2), 7, np.uint16)).max() == 0
    with pytest.raises(ValueError, match="not finite"):
        window_to_uint8(np.array([[np.nan, 1.0]]))


def test_transparency_is_flattened_on_black_and_palettes_become_colours(tmp_path: Path) -> None:
    half = Image.new("RGBA", (2, 2), (200, 100, 50, 0))
    assert np.asarray(to_rgb(half)).max() == 0
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    ref = save(palette, tmp_path / "p.png")
    assert ImageStore([tmp_path])(ref).getpixel((0, 0)) == (10, 20, 30)
    ref = save(palette, tmp_path / "t.png", transparency=1)
    assert ImageStore([tmp_path])(ref).getpixel((0, 0)) == (0, 0, 0)
    assert to_rgb(Image.new("LA", (2, 2), (90, 255))).getpixel((0, 0)) == (90, 90, 90)
    assert to_rgb(Image.new("1", (2, 2), 1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif_orientation_is_applied_once(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    ref = save(image, tmp_path / f"turned{suffix}", exif=exif)
    shown = ImageStore([tmp_path])(ref)
    assert shown.size == (20, 40)
    assert min(shown.getpixel((10, 5))) > 200
    assert max(shown.getpixel((10, 35))) < 50


@pytest.mark.parametrize("suffix", [".tif", ".webp", ".png"])
def test_several_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), (n * 90, 0, 0)) for n in range(3)]
    ref = save(frames[0], tmp_path / f"stack{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"stack.*3 frames.*save the frame"):
        ImageStore([tmp_path])(ref)


@pytest.mark.parametrize("save_npz", [np.savez, np.savez_compressed])
def test_array_items(tmp_path: Path, save_npz: object) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    path = tmp_path / "a.npz"
    save_npz(path, colour=colour, grey=colour[..., 0], deep=colour[..., :1], wide=colour.astype(np.uint16))  # type: ignore[operator]
    store = ImageStore([tmp_path])
    assert np.array_equal(np.asarray(store(ImageRef(str(path), "colour", 3))), colour[3])
    for name in ("grey", "deep"):
        assert np.array_equal(np.asarray(store(ImageRef(str(path), name, 4)))[..., 1], colour[4, ..., 0])
    assert store.size_px(ImageRef(str(path), "colour", 0)) == (7, 6)
    for ref, why in [
        (ImageRef(str(path), "colour", 5), "5 images, there is no number 5"),
        (ImageRef(str(path), "test_images", 0), "there is no array 'test_images'"),
        (ImageRef(str(path), "wide", 0), "images are uint8"),
    ]:
        with pytest.raises(ValueError, match=why):
            store(ref)
    with pytest.raises(ValueError, match="max_pixels"):
        ImageStore([tmp_path], max_pixels=41)(ImageRef(str(path), "colour", 0))


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"o\.npz.*pickle"):
        ImageStore([tmp_path])(ImageRef(str(tmp_path / "o.npz"), "images", 0))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(ValueError, match=r"broken\.npz: not a readable"):
        ImageStore([tmp_path])(ImageRef(str(tmp_path / "broken.npz"), "images", 0))


def test_a_stored_array_is_mapped_and_a_store_pickles_without_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((50, 200, 200), np.uint8))
    store, ref = ImageStore([tmp_path]), ImageRef(str(tmp_path / "a.npz"), "images", 49)
    store(ref)
    assert isinstance(store._arrays[tmp_path / "a.npz"]._data["images"], np.memmap)
    packed = pickle.dumps(store)
    assert len(packed) < 2000
    assert pickle.loads(packed)(ref).size == (200, 200)  # noqa: S301 - our own bytes


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="max_pixels must be at least 1"):
        ImageStore([], max_pixels=0)
