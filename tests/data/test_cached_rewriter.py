"""A rewriter behind a cache: asked once, never in the way, and told of once where it fails."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest

from medrag_lightning.data.cached_rewriter import CachedRewriter, cached
from medrag_lightning.interfaces import Rewriter, RewriteTask

SECRET = "canary question"


def tasks(count: int = 4) -> list[RewriteTask]:
    return [RewriteTask(f"{SECRET} {number}?", (("is it?", "yes"),)) for number in range(count)]


class Counting:
    """Writes the question in capitals and notes what it was asked."""

    def __init__(self, name: str = "a") -> None:
        self.asked: list[str] = []
        self.name = name

    def rewrite(self, given: list[RewriteTask]) -> list[str | None]:
        self.asked += [task.question for task in given]
        return [task.question.upper() for task in given]

    def fingerprint(self) -> str:
        return self.name * 32


class Dead(Counting):
    """A service that is not there."""

    def rewrite(self, given: list[RewriteTask]) -> list[str | None]:
        super().rewrite(given)
        raise ConnectionRefusedError("nobody listens there")


class Hanging(Counting):
    """A service that does not answer until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def rewrite(self, given: list[RewriteTask]) -> list[str | None]:
        self.released.wait(60)
        return super().rewrite(given)


def test_what_was_written_is_not_asked_again_and_file_names_tell_nothing(tmp_path: Path) -> None:
    first = Counting()
    wrapped = CachedRewriter(first, str(tmp_path), batch_size=2)
    assert isinstance(wrapped, Rewriter)
    assert cached(wrapped) is wrapped
    assert wrapped.rewrite([*tasks(), *tasks(2)]) == [task.question.upper() for task in [*tasks(), *tasks(2)]]
    assert len(first.asked) == 4
    second = Counting()
    again = CachedRewriter(second, str(tmp_path))
    assert again.rewrite(tasks(5))[4] == tasks(5)[4].question.upper()
    assert second.asked == [tasks(5)[4].question]
    assert (again.counts.known, again.counts.written, again.counts.failed) == (4, 1, {})
    assert again.known(tasks(6)) == [*[task.question.upper() for task in tasks(5)], None]
    other = Counting("b")
    CachedRewriter(other, str(tmp_path)).rewrite(tasks(1))
    assert len(other.asked) == 1
    assert not [path for path in tmp_path.rglob("*") if "canary" in path.name]


def test_nothing_is_kept_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CachedRewriter(Counting(), None).rewrite(tasks(1)) == [tasks(1)[0].question.upper()]
    assert not list(tmp_path.iterdir())


def test_a_dead_service_leaves_the_questions_with_one_warning_and_is_not_asked_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = Dead()
    wrapped = CachedRewriter(dead, str(tmp_path), batch_size=1, most_failures=3)
    with caplog.at_level(logging.WARNING):
        assert wrapped.rewrite(tasks(20)) == [None] * 20
        assert wrapped.rewrite(tasks(20)) == [None] * 20
    assert len(dead.asked) == 6
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("20 of 20 questions with a history are searched with as they are")
    assert "3 by ConnectionRefusedError (nobody listens there)" in told
    assert "17 not asked, after 3 failures in a row" in told
    assert SECRET not in told
    assert not list(tmp_path.rglob("*.json"))
    alive = Counting()
    assert CachedRewriter(alive, str(tmp_path)).rewrite(tasks(20))[0] is not None, "failures are not kept"
    assert len(alive.asked) == 20


def test_one_that_hangs_is_left_behind_within_its_time(tmp_path: Path) -> None:
    hanging = Hanging()
    wrapped = CachedRewriter(hanging, str(tmp_path), timeout_seconds=0.2, batch_size=2)
    began = time.monotonic()
    assert wrapped.rewrite(tasks(10)) == [None] * 10
    assert time.monotonic() - began < 5
    assert wrapped.counts.failed == {"within 0.2 s": 2, "not asked, after one that hangs": 8}
    assert wrapped.rewrite(tasks(2)) == [None] * 2
    hanging.released.set()
    wrapped._hanging.join(10)
    assert wrapped.rewrite(tasks(2)) == [task.question.upper() for task in tasks(2)], "asked again once it is free"


def test_texts_that_are_none_or_the_wrong_number_fail(tmp_path: Path) -> None:
    class Odd(Counting):
        def rewrite(self, given: list[RewriteTask]) -> list[str | None]:
            return ["  fine\n question ", " ", "x" * 3000, None] if len(given) == 4 else ["one"]

    wrapped = CachedRewriter(Odd(), str(tmp_path), batch_size=4)
    assert wrapped.rewrite(tasks(6)) == ["fine question", None, None, None, None, None]
    assert wrapped.counts.failed == {"without a usable text": 3, "by 1 texts for 2 questions": 2}
    assert str(wrapped.counts).endswith("; 5 failed: 2 by 1 texts for 2 questions, 3 without a usable text")


def test_a_damaged_cache_and_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    CachedRewriter(Counting(), str(tmp_path)).rewrite(tasks())
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text().replace("CANARY", "CHANGED", 1))
    with pytest.raises(ValueError, match=r"damaged.*delete .*rewritten again"):
        CachedRewriter(Counting(), str(tmp_path)).rewrite(tasks())
    with pytest.raises(ValueError, match="needs timeout_seconds above 0"):
        CachedRewriter(Counting(), timeout_seconds=0)


def test_a_model_is_loaded_before_time_counts_and_one_that_is_not_there_stops_the_run(tmp_path: Path) -> None:
    class Loading(Counting):
        def load(self) -> None:
            time.sleep(0.5)

    wrapped = CachedRewriter(Loading(), str(tmp_path), timeout_seconds=0.3)
    assert wrapped.rewrite(tasks(1)) != [None]

    class Missing(Counting):
        def load(self) -> None:
            raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        CachedRewriter(Missing("c"), str(tmp_path)).rewrite(tasks(1))
