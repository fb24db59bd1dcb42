"""The evidence store: round trip, absent sides, refusals, and builds that were cut short."""

import dataclasses

import numpy as np
import pytest

from medrag_lightning.artifacts import write_manifest
from medrag_lightning.batches import Embedded, EmbedItem
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.retrieval.building import build_store, check_images
from medrag_lightning.retrieval.store import MANIFEST, EvidenceStore, corpus_fingerprint, rows_with
from medrag_lightning.retrieval.store_writer import StoreWriter


def build(world, encoder, folder, dtype="float32", batch_size=16):
    return build_store(folder, world.documents, world.pictures, encoder, dtype, batch_size)


def embedded(world, encoder, numbers):
    documents = [(n, world.documents[n]) for n in numbers]
    items = [EmbedItem(n, d.text, None if d.image is None else world.pictures(d.image)) for n, d in documents]
    return Embedded.of(items, encoder.embed_images, encoder.embed_texts)


def writer(world, encoder, folder):
    return StoreWriter(folder, world.documents, encoder.fingerprint(), encoder.describe(), encoder.dim)


def test_round_trip(world, encoder, tmp_path):
    store = build(world, encoder, tmp_path)
    assert store.documents() == world.documents
    for side, embed in (("image", encoder.embed_images), ("text", encoder.embed_texts)):
        assert store.rows[side].tolist() == rows_with(world.documents, side).tolist()
        chosen = [world.documents[row] for row in store.rows[side]]
        items = [world.pictures(d.image) if side == "image" else d.text for d in chosen]
        np.testing.assert_array_equal(store.vectors[side], embed(items))
        assert isinstance(store.vectors[side], np.memmap)
    assert 7 not in store.rows["image"]
    assert 3 not in store.rows["text"]
    assert store.manifest["corpus"]["licenses"] == {"CC0": 40}
    assert store.manifest["embeddings"] | {"image": 36, "text": 36} == store.manifest["embeddings"]
    store.check(encoder, world.documents, "float32")
    store.verify()


def test_store_does_not_depend_on_batch_size_or_order(world, encoder, tmp_path):
    first = build(world, encoder, tmp_path / "a", batch_size=7)
    second = writer(world, encoder, tmp_path / "b")
    for start in (1, 0, 2):
        second.add(embedded(world, encoder, range(start, 40, 3)))
    assert first.manifest == second.finish().manifest


def test_half_precision(world, encoder, tmp_path):
    store = build(world, encoder, tmp_path, "float16")
    assert store.vectors["image"].dtype == np.float16
    with pytest.raises(ValueError, match=r"vectors of type float16, not float32; delete .* or choose another folder"):
        store.check(encoder, world.documents, "float32")


def test_refuses_another_encoder(world, encoder, tmp_path):
    store = build(world, encoder, tmp_path)
    with pytest.raises(ValueError, match=r"another encoder \(weights .* -> .*\); delete"):
        store.check(TinyDualEncoder(64, seed=1), world.documents, "float32")


def test_refuses_another_transform(world, encoder, tmp_path, monkeypatch):
    store = build(world, encoder, tmp_path)
    monkeypatch.setattr("medrag_lightning.models.tiny_dual_encoder.DIRECTIONS", 7)
    changed = TinyDualEncoder(64)
    with pytest.raises(ValueError, match=r"another encoder \(transform [^;]*\); delete"):
        store.check(changed, world.documents, "float32")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: [*d, dataclasses.replace(d[0], id="new")], "1 added, such as 'new'"),
        (lambda d: d[1:], "1 removed, such as 'd0'"),
        (lambda d: [dataclasses.replace(d[0], text="other"), *d[1:]], "1 changed, such as 'd0'"),
        (lambda d: [dataclasses.replace(d[0], patient_id="other"), *d[1:]], "1 changed, such as 'd0'"),
        (lambda d: d[::-1], "the same documents in another order"),
    ],
)
def test_refuses_another_corpus(world, encoder, tmp_path, change, told):
    store = build(world, encoder, tmp_path)
    with pytest.raises(ValueError, match="another corpus") as caught:
        store.check(encoder, change(world.documents), "float32")
    assert told in str(caught.value)
    assert "p0" not in str(caught.value)  # no patient's name


def test_refuses_changed_pixels(world, encoder, tmp_path):
    store = build(world, encoder, tmp_path)
    check_images(store, world.documents, world.pictures)
    world.pictures.put("d0.png", 5, 99)
    with pytest.raises(ValueError, match="image of document 'd0' has changed"):
        check_images(store, world.documents, world.pictures)


def test_corpus_may_be_moved(world):
    def far(image):
        return image and dataclasses.replace(image, path=f"far/{image.path}")

    moved = [dataclasses.replace(document, image=far(document.image)) for document in world.documents]
    assert corpus_fingerprint(moved) == corpus_fingerprint(world.documents)


def test_a_killed_build_leaves_no_store(world, encoder, tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("medrag_lightning.retrieval.store_writer.write_manifest", killed)  # between vectors and manifest
    with pytest.raises(KeyboardInterrupt):
        build(world, encoder, tmp_path)
    monkeypatch.undo()
    assert not EvidenceStore.exists(tmp_path)
    with pytest.raises(ValueError, match="no finished evidence store"):
        EvidenceStore.open(tmp_path)
    build(world, encoder, tmp_path).verify()
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_build_that_fails_over_an_old_store_leaves_that_one_whole(world, encoder, tmp_path, monkeypatch):
    old = build(world, encoder, tmp_path)
    monkeypatch.setattr("medrag_lightning.retrieval.store_writer.write_manifest", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(world, encoder, tmp_path)
    still = EvidenceStore.open(tmp_path)
    still.verify()
    assert still.documents() == old.documents()


def test_a_store_built_over_another_takes_its_place_and_its_files_go(world, encoder, tmp_path):
    build(world, encoder, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    world.documents = world.documents[:30]
    new = build(world, encoder, tmp_path)
    assert new.documents() == world.documents
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST, "documents.next.arrow", "image.next.npy", "text.next.npy"}
    build(world, encoder, tmp_path).verify()
    assert {path.name for path in tmp_path.iterdir()} == names


def test_damage_is_found(world, encoder, tmp_path):
    store = build(world, encoder, tmp_path)
    data = bytearray((tmp_path / "text.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "text.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"text\.npy is damaged"):
        store.verify()
    (tmp_path / "text.npy").write_bytes(data[:-8])
    with pytest.raises(ValueError, match=r"text\.npy has \d+ bytes, its manifest says"):
        EvidenceStore.open(tmp_path)
    write_manifest(tmp_path / MANIFEST, store.manifest | {"schema": 99})
    with pytest.raises(ValueError, match="schema 99"):
        EvidenceStore.open(tmp_path)


def test_writer_refuses_what_does_not_belong(world, encoder, tmp_path):
    made = writer(world, encoder, tmp_path)
    part = embedded(world, encoder, [0, 1])
    with pytest.raises(ValueError, match="document number 3 has no text here"):
        made.add(dataclasses.replace(part, text_index=(0, 3)))
    with pytest.raises(ValueError, match="'d0' was embedded twice"):
        made.add(part)
    made = writer(world, encoder, tmp_path)
    with pytest.raises(ValueError, match="'d1' had another text"):
        made.add(dataclasses.replace(part, text_sha256=(part.text_sha256[0], "0")))
    made = writer(world, encoder, tmp_path)
    with pytest.raises(ValueError, match="'d1' is no unit vector"):
        made.add(dataclasses.replace(part, image_ND=part.image_ND * np.array([[1], [np.nan]], np.float32)))
    with pytest.raises(ValueError, match="documents have no image vector yet, the first is 'd2'"):
        made.add(embedded(world, encoder, [0, 1])) or made.finish()
    with pytest.raises(ValueError, match="corpus is empty"):
        StoreWriter(tmp_path, [], "", {}, 8)
    with pytest.raises(ValueError, match="'d0' occurs more than once"):
        StoreWriter(tmp_path, [*world.documents, world.documents[0]], "", {}, 8)


def test_what_three_sets_brought_is_told_by_number_source_licence_and_modality(world, encoder, tmp_path):
    made = [("X-ray", "chest films", "CC0"), ("CT", "abdomens", "CC-BY 4.0"), ("MRI", "heads", "")]
    documents = [
        dataclasses.replace(world.documents[n], id=f"{source}-{n}", modality=modality, source=source, license=licence)
        for place, (modality, source, licence) in enumerate(made)
        for n in range(5 + place)
    ]
    world.documents = documents
    store = build(world, encoder, tmp_path)
    told = store.manifest["corpus"]
    assert told["documents"] == len(documents) == 18
    assert told["sources"] == {"chest films": 5, "abdomens": 6, "heads": 7}
    assert told["licenses"] == {"CC0": 5, "CC-BY 4.0": 6, "not stated": 7}
    assert told["modalities"] == {"X-ray": 5, "CT": 6, "MRI": 7}
    assert [document.id for document in store.documents()] == [document.id for document in documents]
    assert [document.modality for document in store.documents()] == [document.modality for document in documents]
