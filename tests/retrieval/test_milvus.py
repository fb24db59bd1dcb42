"""Vectors in Milvus: candidates of a flat index, the leak rule inside the search, builds that go on where they stopped."""

import dataclasses
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from medrag_lightning.interfaces import CandidateSource, SimilaritySource, VectorSource
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Channel, Document, ImageRef, Query, shares_identity
from medrag_lightning.retrieval import milvus_build, milvus_store
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.milvus import MilvusSearch
from medrag_lightning.retrieval.source import LiveSearch

BOTH = {"image_to_image": 3, "text_to_text": 2}


@pytest.fixture
def milvus():
    """Skips where the engine is missing: it is an extra."""
    try:
        import milvus_lite  # noqa: F401

        return milvus_store.load_pymilvus()
    except (ImportError, ValueError) as error:
        pytest.skip(f"no Milvus here ({error}); install the extra milvus to run this")


def ready(world, source, folder):
    source.prepare(world.documents, world.pictures, folder)
    source.load(world.documents, world.pictures, folder)
    return source


def listed(found):
    return [[(c.id, c.score, str(c.channel)) for c in one.candidates] for one in found]


def test_it_is_what_it_says(encoder):
    source = MilvusSearch(encoder, BOTH)
    assert all(isinstance(source, kind) for kind in (CandidateSource, SimilaritySource, VectorSource))


def test_candidates_scores_and_fingerprint_are_those_of_a_flat_index(world, encoder, tmp_path, milvus):
    world.documents += [dataclasses.replace(d, id=f"copy{d.id}") for d in world.documents]  # ties
    flat, there = LiveSearch(encoder, BOTH), MilvusSearch(encoder, BOTH)
    ready(world, flat, tmp_path / "flat")
    ready(world, there, tmp_path / "milvus")
    queries = [
        *world.queries,
        dataclasses.replace(world.queries[0], id="r", image=None),
        Query("s", " ", world.queries[0].image),
    ]
    assert listed(there.retrieve(queries)) == listed(flat.retrieve(queries))
    assert there.fingerprint() == flat.fingerprint()
    ids = [["d0", "d7", "copyd3", "nobody"]] * len(queries)
    for channels in ([Channel.IMAGE_TO_IMAGE], list(map(Channel, BOTH))):
        pairs = zip(there.similarities(queries, ids, channels), flat.similarities(queries, ids, channels), strict=True)
        assert all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)
    names = ["d5", "d0", "copyd5", "d0"]
    assert np.array_equal(there.document_vectors("text", names), flat.document_vectors("text", names))
    assert there.document_vectors("image", []).shape == (0, 64)
    with pytest.raises(ValueError, match="'d7' has no image vector"):
        there.document_vectors("image", ["d0", "d7"])


def test_a_server_gives_what_a_file_gives(world, encoder, tmp_path, milvus):
    from milvus_lite.server_manager import ServerManager

    servers = ServerManager()
    flat, file = LiveSearch(encoder, BOTH), MilvusSearch(encoder, BOTH)
    ready(world, flat, tmp_path / "flat")
    ready(world, file, tmp_path / "file")
    try:
        uri = servers.start_and_get_uri(str(tmp_path / "server.db"))  # speaks the protocol of the distributed engine
        assert uri.startswith("http")
        there = ready(world, MilvusSearch(encoder, BOTH, uri=uri, collection="reports"), tmp_path / "server")
        assert (
            listed(there.retrieve(world.queries))
            == listed(file.retrieve(world.queries))
            == listed(flat.retrieve(world.queries))
        )
        assert there.fingerprint() == file.fingerprint()
        assert not list((tmp_path / "server").rglob("*.db"))
    finally:
        servers.release_all()


def test_ties_far_beyond_what_is_fetched_first(encoder, tmp_path, milvus, world):
    world.documents = [Document(f"d{n}", "effusion" if n % 3 else "fracture", source="labels") for n in range(400)][::-1]
    flat, there = LiveSearch(encoder, {"text_to_text": 2}), MilvusSearch(encoder, {"text_to_text": 2})
    ready(world, flat, tmp_path / "flat")
    ready(world, there, tmp_path / "milvus")
    queries = [Query("q", "effusion", patient_id="p"), Query("d398", "effusion"), Query("r", "fracture of what?")]
    assert listed(there.retrieve(queries)) == listed(flat.retrieve(queries))
    assert [c.id for c in there.retrieve(queries[:1])[0].candidates] == ["d398", "d397"]


def test_leak_rule_inside_the_search(world, encoder, tmp_path, milvus, monkeypatch):
    odd = 'p" or row >= 0 or "\\'
    world.documents = [dataclasses.replace(d, patient_id=odd if n < 20 else None) for n, d in enumerate(world.documents)]
    queries = [dataclasses.replace(q, patient_id=odd, study_id="s11", image=world.documents[24].image) for q in world.queries]
    queries += [dataclasses.replace(world.queries[0], id=f"d{n}") for n in range(20, 26)]
    queries += [dataclasses.replace(world.queries[0], id="q" * 90_000, patient_id="\0é\ud800")]
    copied = world.pictures.pixels["d25.png"]
    world.pictures.pixels["copy.png"] = copied
    queries += [dataclasses.replace(world.queries[1], id="copied", image=ImageRef("copy.png"))]
    flat, there = LiveSearch(encoder, BOTH), MilvusSearch(encoder, BOTH)
    ready(world, flat, tmp_path / "flat")
    ready(world, there, tmp_path / "milvus")
    expected, seen = listed(flat.retrieve(queries)), []
    search = there._store.search

    def watched(side, query, limit, rule, settings):
        found = search(side, query, limit, rule, settings)
        seen.append((rule, found[0]))
        return found

    monkeypatch.setattr(there._store, "search", watched)
    assert listed(there.retrieve(queries)) == expected
    assert len(seen) == 2 * len(queries)  # nothing had to be fetched a second time
    for number, query in enumerate(queries):
        for rule, rows in seen[2 * number : 2 * number + 2]:
            assert re.fullmatch(r'\w+_sha256 != "[0-9a-f]{64}"( and \w+_sha256 != "[0-9a-f]{64}")*', rule)
            assert all(shares_identity(query, world.documents[row]) is None for row in rows)
    assert all("d25" not in [name for name, *_ in row] for row in expected[-1:])
    assert all(25 not in rows for _, rows in seen[-2:])


def test_images_that_were_moved_since_the_build_still_leak_nothing(world, encoder, tmp_path, milvus):
    there = ready(world, MilvusSearch(encoder, {"image_to_image": 36}), tmp_path)
    moved = Path("elsewhere") / "d0.png"
    world.pictures.pixels[str(moved)] = world.pictures.pixels["d0.png"]
    world.documents[0] = dataclasses.replace(world.documents[0], image=ImageRef(str(moved)))
    there.load(world.documents, world.pictures, tmp_path)
    world.pictures.pixels[str(moved)] = world.pictures.pixels["d8.png"]  # so that pixels do not tell
    (one,) = there.retrieve([Query("q", "?", ImageRef(str(moved)))])
    assert {"d0", "d8"}.isdisjoint(candidate.id for candidate in one.candidates)
    assert len(one.candidates) == 34


class Counting(TinyDualEncoder):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.texts, self.stop_after = 0, None

    def embed_texts(self, texts):
        if self.stop_after is not None and self.texts >= self.stop_after:
            raise KeyboardInterrupt
        self.texts += sum(text.startswith("report") for text in texts)  # fingerprints embed texts of their own
        return super().embed_texts(texts)


def test_a_stopped_build_goes_on_where_it_stopped(world, tmp_path, milvus, monkeypatch):
    monkeypatch.setattr(milvus_build, "GROUP", 10)
    encoder = Counting(dim=64)
    encoder.stop_after = 15
    source = MilvusSearch(encoder, BOTH, batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        source.prepare(world.documents, world.pictures, tmp_path)
    with pytest.raises(ValueError, match="is not finished"):
        source.load(world.documents, world.pictures, tmp_path)
    done, encoder.stop_after = encoder.texts, None
    there = ready(world, MilvusSearch(encoder, BOTH, batch_size=5), tmp_path)
    assert encoder.texts == sum(bool(document.text) for document in world.documents)
    assert done >= 15
    flat = ready(world, LiveSearch(encoder, BOTH, batch_size=5), tmp_path / "flat")
    assert listed(there.retrieve(world.queries)) == listed(flat.retrieve(world.queries))
    told = encoder.texts
    there.prepare(world.documents, world.pictures, tmp_path)  # a finished one is looked at, not made again
    assert encoder.texts == told


def test_another_corpus_encoder_or_image_is_refused(world, encoder, tmp_path, milvus):
    ready(world, MilvusSearch(encoder, BOTH), tmp_path)
    for other in (MilvusSearch(TinyDualEncoder(dim=64, seed=5), BOTH), MilvusSearch(TinyDualEncoder(dim=32), BOTH)):
        for method in (other.prepare, other.load):
            with pytest.raises(
                ValueError, match=r"'medrag' in .*milvus.db were built with another encoder.*name another collection"
            ):
                method(world.documents, world.pictures, tmp_path)
    whole = world.documents
    world.documents = whole[1:]
    with pytest.raises(ValueError, match="built with another corpus;"):
        ready(world, MilvusSearch(encoder, BOTH), tmp_path)
    second = ready(world, MilvusSearch(encoder, BOTH, collection="second"), tmp_path)  # beside the first
    assert len(second.retrieve(world.queries[:1])[0].candidates) == 5
    world.documents = whole
    with pytest.raises(ValueError, match="another kind of index"):
        ready(world, MilvusSearch(encoder, BOTH, index="HNSW", index_settings={"M": 8, "efConstruction": 40}), tmp_path)
    world.pictures.pixels["d0.png"] = 255 - world.pictures.pixels["d0.png"]
    with pytest.raises(ValueError, match="image of document 'd0' has changed"):
        ready(world, MilvusSearch(encoder, BOTH), tmp_path)


def test_an_index_of_another_kind(world, encoder, tmp_path, milvus):
    settings = {"index_settings": {"M": 8, "efConstruction": 40}, "search_settings": {"ef": 64}}
    there = ready(world, MilvusSearch(encoder, BOTH, index="HNSW", **settings), tmp_path / "hnsw")
    flat = ready(world, LiveSearch(encoder, BOTH), tmp_path / "flat")
    assert there.fingerprint() != flat.fingerprint()
    pairs = zip(listed(there.retrieve(world.queries)), listed(flat.retrieve(world.queries)), strict=True)
    assert np.mean([len(set(one) & set(other)) / 5 for one, other in pairs]) > 0.9


def test_no_identity_reaches_the_engine_in_the_clear(world, encoder, tmp_path, milvus):
    world.documents = [dataclasses.replace(d, patient_id="CANARY^PATIENT", study_id="CANARY.STUDY") for d in world.documents]
    there = ready(world, MilvusSearch(encoder, BOTH), tmp_path)
    there.retrieve([dataclasses.replace(world.queries[0], patient_id="CANARY^PATIENT")])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if b"CANARY" in path.read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="sockets are told by Linux alone")
def test_nothing_beyond_this_machine_is_spoken_to(world, encoder, tmp_path, milvus):
    ready(world, MilvusSearch(encoder, BOTH), tmp_path).retrieve(world.queries)
    mine = {str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{kind}").read_text().splitlines()[1:]]
    ours = [(row[1], row[2]) for row in rows if f"socket:[{row[9]}]" in mine]
    local = re.compile(r"(0100007F|0000000000000000FFFF00000100007F|0{24}01000000):[0-9A-F]{4}|0+:0000")
    assert ours
    assert all(local.fullmatch(end) for both in ours for end in both)
    assert not [one for one, _ in ours if one.startswith("00000000:")]  # and it listens on no other address


def test_beside_texts(world, encoder, tmp_path, milvus):
    texts = [Document(f"t{n}", f"guideline {n}", source="guidelines") for n in range(4)]
    world.documents = [d for d in world.documents if d.image is not None] + texts
    parts = MilvusSearch(encoder, {"image_to_image": 2}), MilvusSearch(encoder, {"text_to_text": 1})
    found = ready(world, KnowledgeSearch(*parts), tmp_path).retrieve(world.queries)
    assert all([str(c.channel) for c in one.candidates] == ["image_to_image"] * 2 + ["text_to_text"] for one in found)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"uri": "corpus.sqlite"}, "neither a server"),
        ({"uri": "http://root:Milvus@host:19530"}, "without user, password or token"),
        ({"uri": "ftp://host"}, "a server is http"),
        ({"uri": "http://host:1", "token_variable": "MEDRAG_NO_SUCH_TOKEN"}, "MEDRAG_NO_SUCH_TOKEN is empty or not set"),
    ],
)
def test_addresses_that_are_refused(world, encoder, tmp_path, settings, told):
    with pytest.raises(ValueError, match=told) as caught:
        MilvusSearch(encoder, BOTH, **settings).prepare(world.documents, world.pictures, tmp_path)
    assert "root:Milvus" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"collection": "a-b"},
        {"collection": ""},
        {"batch_size": 0},
        {"search_settings": {"ef": 3}},
        {"token_variable": "TOKEN"},
    ],
)
def test_settings_that_are_refused(encoder, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        MilvusSearch(encoder, BOTH, **settings)


def test_channels_without_anything_to_find(world, encoder, tmp_path):
    world.documents = [Document("t", "text")]
    with pytest.raises(ValueError, match="channel image_to_image has nothing to find"):
        MilvusSearch(encoder, BOTH).prepare(world.documents, world.pictures, tmp_path)
    with pytest.raises(RuntimeError, match="before load"):
        MilvusSearch(encoder, BOTH).retrieve(world.queries)


def test_a_missing_engine_is_told_with_its_extra(world, encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ValueError, match=r"pip install 'medrag-lightning\[milvus\]'"):
        MilvusSearch(encoder, BOTH).prepare(world.documents, world.pictures, tmp_path)
    assert "PYTHON_DOTENV_DISABLED" not in os.environ


def test_it_can_be_named_in_a_config():
    parser = ArgumentParser()
    parser.add_argument("--source", type=CandidateSource)
    encoder = {"class_path": "medrag_lightning.models.tiny_dual_encoder.TinyDualEncoder"}
    init = {
        "encoder": encoder,
        "per_channel": BOTH,
        "uri": "http://localhost:19530",
        "index": "HNSW",
        "index_settings": {"M": 16},
    }
    told = {"source": {"class_path": "medrag_lightning.retrieval.milvus.MilvusSearch", "init_args": init}}
    assert isinstance(parser.instantiate(parser.parse_object(told)).source, MilvusSearch)
