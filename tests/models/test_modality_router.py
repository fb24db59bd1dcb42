"""Routers of modalities: what they learn, that it is kept, and how their accuracy is told."""

import numpy as np
import pytest
from PIL import Image

from medrag_lightning.interfaces import ModalityRouter
from medrag_lightning.models.labelled_images import draw_labelled
from medrag_lightning.models.linear_router import LinearRouter
from medrag_lightning.models.prompt_router import PromptRouter
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Document, ImageRef

COLOURS = {"CT": (40, 40, 40), "x-ray": (200, 200, 200), "fundus": (220, 90, 20)}
NAMES = list(COLOURS)


class Pictures:
    """An image of the colour of its modality and some noise; counts how many are opened. `lying` share shows another one."""

    def __init__(self, lying=0.0):
        self.opened, self.lying = 0, lying

    def __call__(self, ref):
        self.opened += 1
        number = int(ref.path.split(".")[0])
        rng = np.random.default_rng(number)
        shown = NAMES[(number + (rng.random() < self.lying)) % 3]
        return Image.fromarray(np.clip(rng.normal(COLOURS[shown], 25, (16, 16, 3)), 0, 255).astype(np.uint8))


def documents(count=90):
    return [Document(f"d{n}", "", ImageRef(f"{n}.png"), f"p{n // 6}", modality=NAMES[n % 3]) for n in range(count)]


class Space:
    """Images and words in one space: the axis of the nearest colour, the axis of the modality that a sentence names."""

    dim, shared_space = 3, True

    def embed_images(self, images):
        means = np.array([np.asarray(image, float).mean(axis=(0, 1)) for image in images])
        near = np.abs(means[:, None] - np.array(list(COLOURS.values()), float)).sum(axis=2).argmin(axis=1)
        return np.eye(3, dtype=np.float32)[near]

    def embed_texts(self, texts):
        return np.stack([[float(name in text) for name in NAMES] for text in texts]).astype(np.float32)

    def fingerprint(self):
        return "space"


def routers():
    return [LinearRouter(TinyDualEncoder(32)), PromptRouter(Space())]


@pytest.mark.parametrize("router", routers(), ids=["linear", "prompts"])
def test_they_tell_modalities_that_can_be_seen(router, tmp_path, caplog):
    pictures = Pictures()
    assert isinstance(router, ModalityRouter)
    with pytest.raises(RuntimeError, match=r"before load\(\)"):
        router.modalities([pictures(ImageRef("1.png"))])
    with caplog.at_level("INFO"):
        router.prepare(documents(), pictures, tmp_path)
    assert "held-out images are told right (always the commonest modality: 0.3" in caplog.text
    told = router.modalities([pictures(ImageRef(f"{n}.png")) for n in range(300, 330)])
    assert [name for name, _ in told] == [NAMES[n % 3] for n in range(300, 330)]
    assert all(1 / 3 < probability <= 1 for _, probability in told)
    assert router.modalities([]) == []


def test_it_learns_once_and_is_found_again(tmp_path):
    pictures = Pictures()
    router = LinearRouter(TinyDualEncoder(32))
    router.prepare(documents(), pictures, tmp_path)
    assert pictures.opened == 90
    again = LinearRouter(TinyDualEncoder(32))
    again.prepare(documents(), pictures, tmp_path)
    again.load(documents(), pictures, tmp_path)
    assert pictures.opened == 90
    assert again.fingerprint() == router.fingerprint()
    seen = [pictures(ImageRef(f"{n}.png")) for n in range(300, 330)]
    assert again.modalities(seen) == router.modalities(seen)
    for other, taught in (
        (LinearRouter(TinyDualEncoder(32), penalty=0.1), documents()),
        (LinearRouter(TinyDualEncoder(16)), documents()),
        (LinearRouter(TinyDualEncoder(32)), documents(60)),
    ):
        with pytest.raises(ValueError, match="the router has not learnt from this corpus with this encoder"):
            other.load(taught, pictures, tmp_path)
        other.prepare(taught, pictures, tmp_path)
        assert other.fingerprint() != router.fingerprint()
    assert len(list(tmp_path.glob("router-*.json"))) == 4


def test_a_changed_file_is_refused(tmp_path):
    router = LinearRouter(TinyDualEncoder(32))
    router.prepare(documents(), Pictures(), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace('"images": 90', '"images": 91'))
    with pytest.raises(ValueError, match=r"is damaged.*delete it, and it is learnt anew"):
        router.load(documents(), Pictures(), tmp_path)


def test_accuracy_is_that_of_patients_it_has_not_seen(tmp_path, caplog):
    """Labels that say nothing: no more than chance on held-out images, though what is kept fits those it learnt from."""
    blind = Pictures(lying=0.0)
    wrong = [
        Document(d.id, "", d.image, d.patient_id, modality=NAMES[int(np.random.default_rng([7, n]).integers(3))])
        for n, d in enumerate(documents())
    ]
    router = LinearRouter(TinyDualEncoder(32), held_out=0.4, penalty=1e-6)
    router.prepare(wrong, blind, tmp_path)
    told = router.told["held_out"]
    fitted = router.modalities([blind(d.image) for d in wrong])
    assert told["accuracy"] < 0.6
    assert np.mean([name == d.modality for (name, _), d in zip(fitted, wrong, strict=True)]) > told["accuracy"] + 0.15
    images = draw_labelled(wrong, 2000, 0)
    held = images.held_out(0.4, 0)
    assert held.sum() == told["images"]
    patients = np.array(images.group_N)
    assert not set(patients[held]) & set(patients[~held])


def test_a_share_of_wrong_pictures_costs_that_share(tmp_path):
    router = LinearRouter(TinyDualEncoder(32), held_out=0.5, penalty=0.1)
    router.prepare(documents(600), Pictures(lying=0.2), tmp_path)
    assert 0.72 < router.told["held_out"]["accuracy"] < 0.88
    assert set(router.told["held_out"]["by_modality"]) == set(NAMES)


def test_so_many_of_each_modality_are_drawn():
    many = documents(60) + [Document(f"ct{n}", "", ImageRef(f"{3 * n}.png"), modality="CT") for n in range(100, 160)]
    drawn = draw_labelled(many, 10, 0)
    assert np.bincount(drawn.label_N).tolist() == [10, 10, 10]
    assert drawn.documents == draw_labelled(many, 10, 0).documents
    assert drawn.documents != draw_labelled(many, 10, 1).documents
    with pytest.raises(ValueError, match=r"images of two modalities or more; the corpus has CT \(60\)"):
        draw_labelled(many[60:], 10, 0)


def test_prompts_can_be_named(tmp_path):
    router = PromptRouter(Space(), {"x-ray": ["a CT"], "CT": ["x-ray", "an x-ray film"]})
    router.prepare(documents(), Pictures(), tmp_path)
    assert router.modalities([Image.new("RGB", (8, 8), COLOURS["CT"])])[0][0] == "x-ray"
    with pytest.raises(ValueError, match=r"prompts\.PET would be ignored: the modalities are CT, fundus, x-ray"):
        PromptRouter(Space(), {"PET": ["a PET"]}).load(documents(), Pictures(), tmp_path)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="cannot compare images with texts; use LinearRouter"):
        PromptRouter(TinyDualEncoder(32))
    with pytest.raises(ValueError, match=r"prompts\.CT is empty"):
        PromptRouter(Space(), {"CT": []})
    with pytest.raises(ValueError, match="temperature must be positive"):
        PromptRouter(Space(), temperature=0)
    for wrong in ({"most_per_modality": 0}, {"held_out": 1.0}, {"penalty": 0.0}):
        with pytest.raises(ValueError, match="LinearRouter needs"):
            LinearRouter(TinyDualEncoder(32), **wrong)
