"""The verb `reranker`: fitted on training questions, measured on others, written where the configuration reads it."""

from __future__ import annotations

import json

import pytest
import yaml

pytest.importorskip("bm25s", reason="the extra `text` is not installed")
from medrag_lightning.cli import main
from medrag_lightning.records import Query
from medrag_lightning.retrieval.word_reranker import WordReranker

COLOURS = ("amber", "beige", "coral", "denim", "ebony", "flax", "grape", "hazel")
COUNT = 120


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts():
    """Each fact stands in one text; a decoy repeats a question's common words without it, and is what BM25 likes."""
    for n in range(COUNT):
        word = f"{COLOURS[n % 8]}{n}"
        yield {"id": f"a{n}", "text": f"the {word} sign of the lung was seen. it means that some air is left {n % 3}"}
        yield {"id": f"b{n}", "text": f"{word} {word} {word} sign sign sign"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The current folder holds data.yaml, its files, and nothing else."""
    monkeypatch.chdir(tmp_path)
    asked = [
        {"id": f"q{n}", "question": f"is the {COLOURS[n % 8]}{n} sign seen in the lung?", "gold_doc": f"a{n}", "answer": "yes"}
        for n in range(COUNT)
    ]
    jsonl(tmp_path / "asked.jsonl", asked)
    jsonl(tmp_path / "book.jsonl", texts())
    tables = "medrag_lightning.data.tables"
    pool = {"class_path": "medrag_lightning.retrieval.lexical.LexicalSearch", "init_args": {"top": 8}}
    words = {"class_path": "medrag_lightning.retrieval.word_reranker.WordReranker", "init_args": {"path": "out/words.json"}}
    source = {"class_path": "medrag_lightning.retrieval.reranked.RerankedSearch"}
    source["init_args"] = {"pool": pool, "reranker": words, "keep": 2, "candidates": 8}
    told = {
        "tables": [{"class_path": f"{tables}.PubMedQa", "init_args": {"path": "asked.jsonl"}}],
        "corpus": [{"class_path": f"{tables}.TextCorpus", "init_args": {"path": "book.jsonl"}}],
        "source": source,
    }
    path = tmp_path / "data.yaml"

    def write(**changes):
        data = {"class_path": "medrag_lightning.data.module.MedragData", "init_args": {**told, **changes}}
        path.write_text(yaml.safe_dump({"data": data}))

    write()
    return write, pool, source


def failed(capsys, *arguments):
    with pytest.raises(SystemExit) as ending:
        main(["reranker", *arguments])
    assert ending.value.code == 2
    return capsys.readouterr().err


def test_it_is_fitted_measured_and_read(world, tmp_path, capsys):
    write, pool, _ = world
    main(["reranker", "-c", "data.yaml"])
    out = capsys.readouterr().out
    told = json.loads(out.splitlines()[-1])
    assert told["output"] == "out/words.json"
    assert 0 < told["questions"] <= COUNT
    for split in ("val", "test"):
        assert told[split]["questions"] > 10
        assert told[split]["R@1"]["pool"]["value"] < 0.2, "the decoy is first"
        assert told[split]["R@1"]["reranked"]["value"] > 0.9
        assert told[split]["R@1"]["difference"]["low"] > 0.5
        assert f"{split}: {told[split]['questions']} questions, not fitted on" in out
    assert "R@2 (kept)" in out
    fitted = WordReranker("out/words.json")
    assert fitted.told["questions"] == told["questions"]
    main(["reranker", "-c", "data.yaml", "--output", "again.json"])
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "out" / "words.json").read_bytes(), "the same each time"
    write(source=pool)
    main(["reranker", "-c", "data.yaml", "--output=third.json", "--candidates", "8"])
    capsys.readouterr()
    assert WordReranker("third.json").told["weights"] == fitted.told["weights"]


def test_mistakes_are_told_before_anything_is_searched(world, tmp_path, capsys):
    write, pool, source = world
    assert "reranker needs -c" in failed(capsys)
    assert "--candidates must be at least 2" in failed(capsys, "-c", "data.yaml", "--candidates", "1")
    assert "--outputt" in failed(capsys, "-c", "data.yaml", "--outputt", "x.json")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "words.json").write_text("{}")
    assert "fit it again" in failed(capsys, "-c", "data.yaml")
    (tmp_path / "out" / "words.json").unlink()
    (tmp_path / "there.json").write_text("{}")
    assert "there.json is there already; give --overwrite" in failed(capsys, "-c", "data.yaml", "--output", "there.json")
    write(source=pool)
    assert "--output FILE is missing" in failed(capsys, "-c", "data.yaml")
    hybrid = {"class_path": "medrag_lightning.retrieval.hybrid.HybridSearch"}
    write(source=hybrid | {"init_args": {"parts": {"a": source, "b": source}, "top": 2}})
    assert "data.source has 2 searches with a WordReranker" in failed(capsys, "-c", "data.yaml")
    write(tables=[{"class_path": "medrag_lightning.data.tables.JsonlQueries", "init_args": {"path": "plain.jsonl"}}])
    jsonl(tmp_path / "plain.jsonl", [{"id": f"p{n}", "question": "why?", "answer": "so", "split": "train"} for n in range(3)])
    assert "no training question names the documents that answer it" in failed(capsys, "-c", "data.yaml")
    assert not (tmp_path / "out" / "words.json").exists()


def test_a_reranker_that_is_not_fitted_yet_says_how(world, tmp_path):
    waiting = WordReranker("out/words.json")
    with pytest.raises(ValueError, match=r"words\.json is not there: fit it with python -m medrag_lightning reranker -c"):
        waiting.relevance([("a", "b")])
    with pytest.raises(ValueError, match="is not there"):
        waiting.fingerprint()
    main(["reranker", "-c", "data.yaml"])
    assert waiting.fingerprint() == WordReranker("out/words.json").fingerprint(), "it is read once it is there"


def test_chunks_of_the_right_text_and_its_twins_are_right(world, tmp_path):
    from medrag_lightning.cli.reranker_lessons import right_ids
    from medrag_lightning.records import Document

    class Data:
        def documents(self):
            said = {"x/1": "one", "x/2": "two", "y": "two", "z/1/a": "three", "w": "four"}
            return [Document(name, text) for name, text in said.items()]

        def split_queries(self, split):
            return [Query(split, "?", relevant_ids={"train": ("x",), "val": ("w",), "test": ("z/1",)}[split])]

    assert right_ids(Data()) == {"train": {"x/1", "x/2", "y"}, "val": {"w"}, "test": set()}
