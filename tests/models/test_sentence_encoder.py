"""Sentence encoders and cross-encoders over tiny random models: pooling, pairs, limits, prefixes, fingerprints, refusals."""

import numpy as np
import pytest
import torch
from PIL import Image
from text_folders import CONTEXT, save
from transformers import BertForSequenceClassification

from medrag_lightning.interfaces import QuestionEncoder, Reranker, Retriever
from medrag_lightning.models.cross_encoder import CrossEncoder
from medrag_lightning.models.sentence_encoder import SentenceEncoder
from medrag_lightning.records import Channel, Document, Query
from medrag_lightning.retrieval.source import LiveSearch

TEXTS = ["cough and fever", "a broken rib", "fever", "cough " * 40]


def hidden(model, rows):
    with torch.inference_mode():
        return model(torch.tensor([rows])).last_hidden_state[0].numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_the_pooled_states_whatever_the_batch(tmp_path, pooling):
    name, model = save(tmp_path)
    encoder = SentenceEncoder(name, pooling=pooling, batch_size=2)
    found = encoder.embed_texts(TEXTS)
    states = hidden(model, [2, 4, 5, 6, 3])
    expected = states.mean(0) if pooling == "mean" else states[0]
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, np.concatenate([encoder.embed_texts([text]) for text in TEXTS]), atol=1e-5)
    assert encoder.embed_texts([]).shape == encoder.embed_images([]).shape == (0, 16)
    assert isinstance(encoder, Retriever)
    assert isinstance(encoder, QuestionEncoder)
    np.testing.assert_array_equal(encoder.embed_questions(TEXTS), found)


def test_a_pair_asks_with_one_and_stores_the_other(tmp_path):
    (ask, _), (read, _) = save(tmp_path / "ask", seed=1), save(tmp_path / "read", seed=2)
    pair = SentenceEncoder(ask, read)
    np.testing.assert_array_equal(pair.embed_questions(TEXTS), SentenceEncoder(ask).embed_texts(TEXTS))
    np.testing.assert_array_equal(pair.embed_texts(TEXTS), SentenceEncoder(read).embed_texts(TEXTS))
    assert pair.fingerprint() == SentenceEncoder(read).fingerprint() != SentenceEncoder(ask).fingerprint()
    assert (
        pair.question_fingerprint()
        == SentenceEncoder(ask).question_fingerprint()
        != SentenceEncoder(read).question_fingerprint()
    )
    wide, _ = save(tmp_path / "wide", hidden=32)
    with pytest.raises(ValueError, match=r"no pair"):
        SentenceEncoder(wide, read).embed_questions(["cough"])


def test_inner_product_is_kept_as_it_is(tmp_path):
    name, model = save(tmp_path)
    raw = SentenceEncoder(name, pooling="cls", largest_norm=100.0)
    stored, asked = raw.embed_texts(TEXTS), raw.embed_questions(TEXTS)
    plain = np.stack([hidden(model, [2, 4, 5, 6, 3])[0], hidden(model, [2, 7, 8, 9, 3])[0]])
    question = plain[0] / np.linalg.norm(plain[0])
    np.testing.assert_allclose(stored[:2] @ asked[0] * 100, plain @ question, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)
    assert stored.shape[1] == raw.dim == 17
    with pytest.raises(ValueError, match=r"largest_norm=0.1 is too small"):
        SentenceEncoder(name, largest_norm=0.1).embed_texts(TEXTS)


def test_texts_are_cut_and_prefixed(tmp_path):
    name, model = save(tmp_path)
    encoder = SentenceEncoder(name, pooling="mean", max_tokens=5, max_query_tokens=4, query_prefix="query: ")
    np.testing.assert_array_equal(encoder.embed_texts(["cough " * 40]), encoder.embed_texts(["cough cough cough"]))
    states = hidden(model, [2, 10, 11, 3]).mean(0)
    np.testing.assert_allclose(encoder.embed_questions(["fever"])[0], states / np.linalg.norm(states), atol=1e-5)
    assert encoder.fingerprint() != SentenceEncoder(name).fingerprint()
    with pytest.raises(ValueError, match=r"exceeds the context"):
        SentenceEncoder(name, max_tokens=CONTEXT + 1).embed_texts(["cough"])


def test_live_search_asks_with_the_encoder_of_questions(tmp_path):
    (ask, _), (read, _) = save(tmp_path / "ask", seed=1), save(tmp_path / "read", seed=2)
    documents = [Document(f"d{n}", text) for n, text in enumerate(TEXTS)]
    told = set()
    for number, encoder in enumerate([SentenceEncoder(ask, read), SentenceEncoder(read)]):
        source = LiveSearch(encoder, {"text_to_text": 4})
        source.prepare(documents, Image.open, tmp_path / "store")
        source.load(documents, Image.open, tmp_path / "store")
        (one,) = source.retrieve([Query("q", "a fever?")])
        expected = encoder.embed_texts(TEXTS) @ encoder.embed_questions(["a fever?"])[0]
        assert [c.id for c in one.candidates] == [f"d{at}" for at in np.argsort(-expected, kind="stable")]
        assert one.candidates[0].channel is Channel.TEXT_TO_TEXT
        told.add(source.fingerprint())
        assert len(told) == number + 1


def test_images_and_wrong_settings_are_refused(tmp_path):
    name, _ = save(tmp_path)
    with pytest.raises(ValueError, match=r"reads texts only.*KnowledgeSearch"):
        SentenceEncoder(name).embed_images([Image.new("RGB", (8, 8))])
    with pytest.raises(ValueError, match=r"cannot be loaded"):
        SentenceEncoder(str(tmp_path / "nothing")).embed_texts(["cough"])
    with pytest.raises(ValueError, match=r"revision='main' would be ignored"):
        SentenceEncoder(name, query_revision="main").embed_texts(["cough"])
    with pytest.raises(ValueError, match=r"document_revision would be ignored"):
        SentenceEncoder(name, document_revision="main")
    for wrong in ({"max_tokens": 0}, {"largest_norm": 0.0}, {"pooling": "max"}):
        with pytest.raises(ValueError, match=r"must be"):
            SentenceEncoder(name, **wrong)


@pytest.mark.parametrize("labels", [1, 2])
def test_cross_encoder_gives_the_logit_whatever_the_batch(tmp_path, labels):
    name, model = save(tmp_path, BertForSequenceClassification, labels=labels)
    encoder = CrossEncoder(name, max_tokens=CONTEXT, batch_size=2)
    pairs = [("fever?", text) for text in TEXTS] + [("cough and fever", "rib")]
    told = encoder.relevance(pairs)
    with torch.inference_mode():
        rows = {"input_ids": torch.tensor([[2, 6, 12, 3, 7, 8, 9, 3]]), "token_type_ids": torch.tensor([[0] * 4 + [1] * 4])}
        logits = model(**rows).logits[0].numpy()
    assert told[1] == pytest.approx(logits[0] if labels == 1 else logits[1] - logits[0], abs=1e-5)
    assert len(set(np.round(told, 4))) == 5
    np.testing.assert_allclose(told, [encoder.relevance([pair])[0] for pair in pairs], atol=1e-5)
    assert encoder.relevance([]).shape == (0,)
    assert isinstance(encoder, Reranker)


def test_cross_encoder_cuts_the_text_and_a_long_question(tmp_path):
    name, _ = save(tmp_path, BertForSequenceClassification)
    encoder = CrossEncoder(name, max_tokens=10)
    same = encoder.relevance([("fever", "cough " * 40), ("fever", "cough " * 6), ("rib " * 40, "cough"), ("rib " * 5, "cough")])
    assert same[0] == pytest.approx(same[1], abs=1e-6)
    assert same[2] == pytest.approx(same[3], abs=1e-6)
    assert (
        encoder.fingerprint()
        == CrossEncoder(name, max_tokens=10).fingerprint()
        != CrossEncoder(name, max_tokens=12).fingerprint()
    )


def test_cross_encoder_refuses_what_is_none(tmp_path):
    name, _ = save(tmp_path, BertForSequenceClassification, labels=3)
    with pytest.raises(ValueError, match=r"3 outputs, no re-ranker"):
        CrossEncoder(name, max_tokens=CONTEXT).relevance([("a", "b")])
    with pytest.raises(ValueError, match=r"max_tokens >= 8"):
        CrossEncoder(name, max_tokens=4)
    with pytest.raises(ValueError, match=r"exceeds the context"):
        CrossEncoder(save(tmp_path / "b", BertForSequenceClassification)[0]).relevance([("a", "b")])
