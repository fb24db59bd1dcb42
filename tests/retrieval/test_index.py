"""The index equals a numpy reference, ties included, whatever else is asked; recall of the approximate kinds."""

import numpy as np
import pytest

from medrag_lightning.artifacts import fingerprint, sha256_file, write_manifest
from medrag_lightning.retrieval.building import build_store
from medrag_lightning.retrieval.index import IndexConfig, VectorIndex, build_index, index_path, open_index
from medrag_lightning.retrieval.store import EvidenceStore


def unit(count, dim=32, seed=0, clusters=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim))
    if clusters:
        vectors = rng.standard_normal((clusters, dim))[rng.integers(clusters, size=count)] + 0.5 * vectors
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def reference(query_BD, vectors, k):
    scores = (query_BD.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


@pytest.mark.parametrize("count", [1, 5, 700])
@pytest.mark.parametrize("k", [1, 4, 50])
def test_flat_equals_numpy(count, k):
    vectors, queries = unit(count), unit(33, seed=1)
    scores, rows = VectorIndex(vectors, IndexConfig()).search(queries, k)
    expected_scores, expected_rows = reference(queries, vectors, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_flat_equals_numpy_with_ties():
    """400 copies of 5 vectors, some copies one last bit away: more ties than are ever fetched."""
    rng = np.random.default_rng(2)
    vectors = unit(5)[rng.integers(5, size=400)]
    vectors[::7, 0] = np.nextafter(vectors[::7, 0], 2)
    queries = np.concatenate([unit(5), unit(20, seed=3)])
    index = VectorIndex(vectors, IndexConfig())
    for k in (1, 10, 399, 400):
        np.testing.assert_array_equal(index.search(queries, k)[1], reference(queries, vectors, k)[1])


def test_answers_do_not_depend_on_company():
    """FAISS sums differently for many queries than for few; the answers must not show it."""
    vectors, queries = unit(300)[np.arange(900) % 300], unit(300, seed=4)
    index = VectorIndex(vectors, IndexConfig())
    scores, rows = index.search(queries, 6)
    alone = [index.search(query[None], 6) for query in queries[:40]]
    np.testing.assert_array_equal(scores[:40], np.concatenate([s for s, _ in alone]))
    np.testing.assert_array_equal(rows[:40], np.concatenate([r for _, r in alone]))


@pytest.fixture(params=[False, True], ids=["faiss first", "bfloat16 first"])
def half(request, monkeypatch):
    """Whether a flat search makes its shortlist in bfloat16, on whatever machine."""
    monkeypatch.setattr("medrag_lightning.retrieval.index.has_instructions", lambda: request.param)
    return request.param


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("spread", [1.0, 0.01, 0.0])
def test_flat_equals_numpy_whoever_makes_the_shortlist(half, spread, dtype):
    """Also where all scores lie within what bfloat16 can tell apart, or are equal; queries of any length."""
    rng = np.random.default_rng(5)
    vectors = (unit(1, 48, seed=1) + spread * unit(3000, 48)).astype(dtype)
    vectors[::3] = vectors[1]
    queries = (unit(40, 48, seed=2) * rng.uniform(0.01, 30, (40, 1))).astype(np.float32)
    index = VectorIndex(vectors, IndexConfig())
    scores, rows = index.search(queries, 7)
    expected_scores, expected_rows = reference(queries, vectors, 7)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert (index._half is not None) == half
    alone = [index.search(query[None], 7) for query in queries]  # too few for the first pass
    np.testing.assert_array_equal(rows, np.concatenate([r for _, r in alone]))
    np.testing.assert_array_equal(scores, np.concatenate([s for s, _ in alone]))


@pytest.mark.parametrize("sign", [1, -1])
def test_flat_equals_numpy_whatever_the_sign_of_scores(half, sign):
    """Bits of negative numbers are in the opposite order of those of positive ones."""
    vectors = unit(1, 48, seed=1) + 0.3 * unit(3000, 48)
    queries = np.concatenate([sign * unit(1, 48, seed=1) + 0.3 * unit(30, 48, seed=2), unit(3, 48, seed=3)]).astype(np.float32)
    scores, rows = VectorIndex(vectors, IndexConfig()).search(queries, 20)
    expected_scores, expected_rows = reference(queries, vectors, 20)
    assert ((sign * expected_scores[:30]) > 0).all()
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_the_bfloat16_kind_misses_next_to_nothing_and_writes_no_file(tmp_path):
    vectors, queries = unit(9000, 64, clusters=30), unit(50, 64, seed=0, clusters=30)
    path = tmp_path / "index.faiss"
    scores, rows = VectorIndex(vectors, IndexConfig("bf16"), path).search(queries, 50)
    expected_scores, expected = reference(queries, vectors, 50)
    assert np.mean(np.isin(rows + 9000 * np.arange(50)[:, None], expected + 9000 * np.arange(50)[:, None])) >= 0.999
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
    assert not path.exists()


def test_the_bfloat16_kind_puts_equals_in_order_whatever_else_is_asked():
    vectors, queries = unit(700, 40)[np.arange(2100) % 700], unit(40, 40, seed=4)
    index = VectorIndex(vectors, IndexConfig("bf16"))
    scores, rows = index.search(queries, 12)
    np.testing.assert_array_equal(rows, reference(queries, vectors, 12)[1])
    alone = [index.search(query[None], 12) for query in queries]
    np.testing.assert_array_equal(scores, np.concatenate([s for s, _ in alone]))
    np.testing.assert_array_equal(rows, np.concatenate([r for _, r in alone]))


@pytest.mark.parametrize("kind", ["flat", "bf16", "hnsw", "ivf_pq"])
def test_more_than_there_are_gives_each_once(kind):
    vectors = unit(50)
    scores, rows = VectorIndex(vectors, IndexConfig(kind, **({"pq_bytes": 8} if kind == "ivf_pq" else {}))).search(unit(3), 99)
    assert rows.shape == scores.shape == (3, 50)
    assert (np.sort(rows, axis=1) == np.arange(50)).all()
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("config", "floor"),
    [
        (IndexConfig("hnsw"), 0.97),
        (IndexConfig("ivf_pq", ivf_lists=16, ivf_probes=8, pq_bytes=8), 0.5),
    ],
)
def test_recall_of_approximate_kinds(config, floor, tmp_path):
    vectors, queries = unit(1200, clusters=30), unit(50, seed=0, clusters=30)
    built = VectorIndex(vectors, config, tmp_path / "index.faiss")
    scores, rows = built.search(queries, 10)
    exact = reference(queries, vectors, 10)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), exact.tolist(), strict=True)])
    assert recall >= floor
    np.testing.assert_allclose(scores[0], vectors[rows[0]] @ queries[0], atol=1e-6)  # exact scores of what was found
    reopened = VectorIndex(vectors, config, tmp_path / "index.faiss")
    np.testing.assert_array_equal(reopened.search(queries, 10)[1], rows)


def test_build_index_writes_both_sides_and_reads_them_again(world, encoder, tmp_path, monkeypatch):
    build_store(tmp_path, world.documents, world.pictures, encoder, "float32", 16)
    paths = build_index(tmp_path, IndexConfig())
    assert [path.name.split(".")[0] for path in paths] == ["image", "text"]
    monkeypatch.setattr("medrag_lightning.retrieval.index._build", None)  # a second opening reads
    store = EvidenceStore.open(tmp_path)
    query = encoder.embed_texts(["an effusion"])
    expected = reference(query, np.asarray(store.vectors["text"]), 5)[1]
    np.testing.assert_array_equal(open_index(store, "text", IndexConfig()).search(query, 5)[1], expected)


def test_index_files_of_other_settings_or_stores_are_not_read(world, encoder, tmp_path):
    store = build_store(tmp_path, world.documents, world.pictures, encoder, "float32", 16)
    before = {index_path(store, "image", c) for c in (IndexConfig(), IndexConfig("hnsw"), IndexConfig("hnsw", hnsw_links=8))}
    assert len(before) == 3
    world.pictures.put("d0.png", 5, 99)  # same corpus by name, other pixels
    (tmp_path / "manifest.json").unlink()
    again = build_store(tmp_path, world.documents, world.pictures, encoder, "float32", 16)
    assert again.fingerprint == store.fingerprint
    assert index_path(again, "image", IndexConfig()) not in before


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_damaged_index_file_is_built_again(tmp_path, kind, caplog):
    path, vectors = tmp_path / "one.faiss", unit(300)
    first = VectorIndex(vectors, IndexConfig(kind), path).search(vectors[:5], 4)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4  # hnsw: a link to nowhere, at which faiss may crash
    path.write_bytes(data)
    again = VectorIndex(vectors, IndexConfig(kind), path).search(vectors[:5], 4)
    assert "is damaged; it is built again" in caplog.text
    np.testing.assert_array_equal(first[1], again[1])


def test_an_index_that_is_none_or_of_other_vectors_is_refused(tmp_path):
    bad = tmp_path / "bad.faiss"
    bad.write_bytes(fingerprint("x").encode())
    write_manifest(tmp_path / "bad.faiss.json", {"bytes": bad.stat().st_size, "sha256": sha256_file(bad)})
    with pytest.raises(ValueError, match="no readable index; delete that file"):
        VectorIndex(unit(9), IndexConfig(), bad)
    VectorIndex(unit(9), IndexConfig(), tmp_path / "nine.faiss")
    with pytest.raises(ValueError, match="indexes 9 vectors, the store has 8"):
        VectorIndex(unit(8), IndexConfig(), tmp_path / "nine.faiss")


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match="hnsw_links=8 would be ignored by an index of kind 'flat'"):
        IndexConfig(hnsw_links=8)
    with pytest.raises(ValueError, match="ivf_probes must be at least 1"):
        IndexConfig("ivf_pq", ivf_probes=0)
    with pytest.raises(ValueError, match="choose one of flat, bf16, hnsw, ivf_pq"):
        IndexConfig("tree")
    with pytest.raises(ValueError, match="pq_bytes=7 does not divide"):
        VectorIndex(unit(100), IndexConfig("ivf_pq", pq_bytes=7))
    with pytest.raises(ValueError, match="k must be at least 1"):
        VectorIndex(unit(3), IndexConfig()).search(unit(1), 0)


def test_build_index_needs_a_store(tmp_path):
    with pytest.raises(ValueError, match="no finished evidence store"):
        build_index(tmp_path, IndexConfig())
