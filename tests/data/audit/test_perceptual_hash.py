"""A copy is recognised whatever was done to its file; look-alikes are not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from medrag_lightning.data.audit.image_pass import THUMBNAIL_PX
from medrag_lightning.data.audit.perceptual_hash import CERTAIN, Thumbnails, is_flat, twins


def jpeg(quality):
    def encoded(image):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    return encoded


def scaled(factor):
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


CHANGES = {
    "jpeg 30": jpeg(30),
    "half": scaled(0.5),
    "double": scaled(2),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned by half": lambda image: image.rotate(180),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.85),
    "all of it": lambda image: ImageOps.flip(jpeg(50)(scaled(0.5)(ImageEnhance.Brightness(image).enhance(1.1)))),
}


def pictures(count=24, side=192, seed=0, alike=0.7):
    """Pictures with the spectrum of photographs and one coarse shape that all have, as films of one body part do."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = np.inf

    def drawn():
        value = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequency).real
        return value / value.std()

    shape = drawn()
    mixed = [alike**0.5 * shape + (1 - alike) ** 0.5 * drawn() for _ in range(count)]
    return [Image.fromarray((128 + 35 * one).clip(0, 255).astype(np.uint8)).convert("RGB") for one in mixed]


def thumbnails(images):
    small = [np.asarray(image.convert("L").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)) for image in images]
    return Thumbnails(np.stack(small), np.array([min(image.size) for image in images]))


@pytest.fixture(scope="module")
def pool():
    return pictures(120, alike=0.5)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_found(name, pool):
    found = twins(thumbnails([CHANGES[name](image) for image in pool[:8]]), thumbnails(pool))
    assert [(twin.row, twin.pool_row) for twin in found] == [(n, n) for n in range(8)]


def test_pictures_of_one_coarse_shape_are_not_copies():
    alike = pictures(130, seed=3, alike=0.9)
    grey = thumbnails(alike).grey_NHW.reshape(len(alike), -1).astype(float)
    assert np.corrcoef(grey)[np.triu_indices(len(alike), 1)].mean() > 0.8
    assert not twins(thumbnails(alike[:20]), thumbnails(alike[20:]))


def test_a_small_copy_stands_out_among_its_neighbours():
    """A 28 px picture loses its fine detail to JPEG; it is then still far nearer to its original than to any other."""
    small = [image.resize((28, 28), Image.Resampling.BICUBIC) for image in pictures(150, seed=5, alike=0.3)]
    found = twins(thumbnails([jpeg(50)(image) for image in small[:20]]), thumbnails(small))
    assert {(twin.row, twin.pool_row) for twin in found} == {(n, n) for n in range(20)}
    assert min(twin.similarity for twin in found) < CERTAIN
    few = twins(thumbnails([jpeg(50)(image) for image in small[:20]]), thumbnails(small[:40]))
    assert len(few) < 20  # so few neighbours do not tell how near different pictures are


def test_an_image_that_shows_nothing_is_told():
    assert is_flat(np.full((64, 64), 7, np.uint8))
    assert not is_flat(np.asarray(pictures(1)[0].convert("L").resize((64, 64))))


def test_no_pool_no_twins(pool):
    assert twins(thumbnails(pool), Thumbnails(np.zeros((0, 64, 64), np.uint8), np.zeros(0, np.int64))) == []
