"""Web searches by a search engine that answers with JSON over HTTPS, such as a SearXNG of one's own."""

from __future__ import annotations

import html
import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus, urlsplit

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import WebPage
from medrag_lightning.retrieval.guarded_https import get

logger = logging.getLogger(__name__)
_TAG = re.compile(r"<[^<>]*>")


class HttpsFetcher:
    """Asks a search engine; `interfaces.WebFetcher`. Nothing is opened unless `allow_network` is true.

    The words go to the engine's owner, who keeps them: searches must hold nothing of a patient (`web.WebSearch` refuses ids,
    and cannot know names). Answers change from day to day: wrap it in `cassette.RecordingFetcher`, and train and test on the
    recording. Only the engine's own answer is read: no page that it names is opened.

    Args:
        endpoint: address with ``{words}`` and perhaps ``{count}``, such as ``https://HOST/search?q={words}&format=json``.
        allow_network: whether connections may be opened.
        results: where the list of pages stands in the answer, keys joined by dots (``web.results``).
        fields: how the answer calls `url`, `title` and `text`; null for SearXNG's ``url``, ``title``, ``content``.
        token_variable: name of the environment variable that holds the engine's token; null for none. Never the token itself.
        token_header: header that the token is sent in.
        timeout_seconds: for one search.
        pause_seconds: between two searches.
        max_bytes: a longer answer is refused.
        allow_private: whether the engine may have an address that is not public.
    """

    def __init__(
        self,
        endpoint: str,
        allow_network: bool = False,
        results: str = "results",
        fields: dict[str, str] | None = None,
        token_variable: str | None = None,
        token_header: str = "Authorization",
        timeout_seconds: float = 10.0,
        pause_seconds: float = 1.0,
        max_bytes: int = 2 << 20,
        allow_private: bool = False,
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme != "https" or not parts.hostname or parts.username is not None or "{" in parts.netloc:
            raise ValueError(f"endpoint must begin with https://HOST/, without a user name, got {endpoint!r}")
        if "{words}" not in endpoint:
            raise ValueError(f"endpoint must say where the words go, by {{words}}, got {endpoint!r}")
        if unknown := sorted(set(fields or {}) - {"url", "title", "text"}):
            raise ValueError(f"fields.{unknown[0]} would be ignored; url, title and text are read")
        if timeout_seconds <= 0 or pause_seconds < 0 or max_bytes < 1:
            told = f"{timeout_seconds}, {pause_seconds} and {max_bytes}"
            raise ValueError(f"timeout_seconds and max_bytes must be above 0, and pause_seconds not below it, got {told}")
        self.endpoint, self.allow_network, self.results = endpoint, allow_network, results
        self.fields = {"url": "url", "title": "title", "text": "content"} | (fields or {})
        self.token_variable, self.token_header = token_variable, token_header
        self.timeout_seconds, self.pause_seconds = float(timeout_seconds), pause_seconds
        self.max_bytes, self.allow_private = max_bytes, allow_private
        self._may_ask_at = 0.0

    def fetch(self, words: Sequence[str], count: int) -> list[list[WebPage] | None]:
        """The pages of each search; None for one that failed.

        Raises:
            ValueError: `allow_network` is false, or the token is not there.
        """
        if not words:
            return []
        if not self.allow_network:
            raise ValueError(
                f"{len(words)} web searches are asked for, and allow_network is false: nothing was sent. Set it to true to "
                f"send the words to {urlsplit(self.endpoint).hostname}, replay a recording (CassetteFetcher), or leave the "
                "part web out"
            )
        headers = {"Accept": "application/json", "User-Agent": "medrag-lightning"} | self._token()
        found = [self._search(one, count, headers) for one in words]
        if failed := sum(one is None for one in found):
            logger.warning("%d of %d web searches failed and find nothing", failed, len(found))
        return found

    def fingerprint(self) -> str:
        """Of the engine and how its answers are read; what it answers changes all the same."""
        return fingerprint("https fetcher", self.endpoint, self.results, sorted(self.fields.items()))

    def _token(self) -> dict[str, str]:
        if self.token_variable is None:
            return {}
        if not (token := os.environ.get(self.token_variable, "")):
            raise ValueError(
                f"the environment variable {self.token_variable}, which is to hold the search engine's token, is empty"
            )
        return {self.token_header: token}

    def _search(self, words: str, count: int, headers: Mapping[str, str]) -> list[WebPage] | None:
        time.sleep(max(0.0, self._may_ask_at - time.monotonic()))
        url = self.endpoint.replace("{words}", quote_plus(words)).replace("{count}", str(count))
        try:
            body = get(url, headers, self.timeout_seconds, self.max_bytes, self.allow_private)
            rows = self._rows(json.loads(body))
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("a web search failed: %s", error or type(error).__name__)
            return None
        finally:
            self._may_ask_at = time.monotonic() + self.pause_seconds
        now = datetime.now(UTC).isoformat(timespec="seconds")
        pages = (self._page(row, now) for row in rows)
        return [page for page in pages if page is not None][:count]

    def _rows(self, told: Any) -> list[Any]:
        for key in self.results.split("."):
            if not isinstance(told, dict) or key not in told:
                raise ValueError(f"the answer holds no {self.results!r} (setting results)")
            told = told[key]
        if not isinstance(told, list):
            raise ValueError(f"{self.results!r} of the answer is no list (setting results)")
        return told

    def _page(self, row: Any, now: str) -> WebPage | None:
        """None for a result without an address or a text: pictures, advertisements."""
        if not isinstance(row, dict):
            return None
        url, title, text = (row.get(self.fields[name]) for name in ("url", "title", "text"))
        if not isinstance(url, str) or not url.startswith(("https://", "http://")) or not isinstance(text, str):
            return None
        return WebPage(url, _plain(title) if isinstance(title, str) else "", _plain(text), now)


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())
