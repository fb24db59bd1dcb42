import numpy as np
import pytest
from PIL import Image

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.data.augment import Augmentation


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 24, 3), dtype=np.uint8))


def test_the_same_counter_gives_the_same_pixels():
    one, two, other = (Augmentation().apply(picture(), counter_rng(0, "a", n)) for n in (1, 1, 2))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != other.tobytes()
    assert one.size == picture().size


def test_nothing_wraps_round_and_zero_changes_nothing():
    assert Augmentation(0.0, 0.0, 0.0).apply(picture(), counter_rng(0)).tobytes() == picture().tobytes()
    half = Image.fromarray(np.r_[np.zeros((16, 32, 3), np.uint8), np.full((16, 32, 3), 200, np.uint8)])
    for n in range(20):
        moved = np.asarray(Augmentation(0.4, 0.0, 0.0).apply(half, counter_rng(n)))[:, 0, 0].astype(int)
        assert (np.diff(moved) >= 0).all()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="brightness"):
        Augmentation(brightness=0.7)
