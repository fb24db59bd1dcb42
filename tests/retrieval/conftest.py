"""A small corpus in memory: 40 coloured images in 8 looks, some documents without image, some without text."""

import numpy as np
import pytest
from PIL import Image

from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Document, ImageRef, Query

FINDINGS = ["effusion", "fracture", "nodule", "opacity", "pneumothorax", "cyst", "edema", "mass"]


class Pictures:
    """Opens images by path from a dictionary of pixels; counts how often."""

    def __init__(self):
        self.pixels, self.opened = {}, 0

    def __call__(self, ref):
        self.opened += 1
        return Image.fromarray(self.pixels[ref.path])

    def put(self, path, look, draw):
        base = np.random.default_rng(look).integers(0, 255, (4, 4, 3)).repeat(6, 0).repeat(6, 1)
        noise = np.random.default_rng([look, draw]).normal(0, 10, base.shape)
        self.pixels[path] = np.clip(base + noise, 0, 255).astype(np.uint8)
        return ImageRef(path)


class World:
    def __init__(self):
        self.pictures = Pictures()
        self.documents = [self.document(number) for number in range(40)]
        self.queries = [
            Query(f"q{n}", f"Is there a {FINDINGS[n % 8]} in patient {n}?", self.pictures.put(f"q{n}.png", n % 8, 1000 + n))
            for n in range(12)
        ]

    def document(self, number):
        look = number % 8
        image = None if number % 10 == 7 else self.pictures.put(f"d{number}.png", look, number)
        text = "" if number % 10 == 3 else f"report {number}: {FINDINGS[look]} on the left"
        patient, study = f"p{number // 2}", f"s{number // 2}"
        return Document(f"d{number}", text, image, patient, study, source="world", license="CC0")


@pytest.fixture
def world():
    return World()


@pytest.fixture
def encoder():
    return TinyDualEncoder(dim=64)
