"""A search engine asked over a guarded connection: public addresses, one host, in time, not too long; here on this machine."""

import http.server
import json
import socket
import threading
import time
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from medrag_lightning.interfaces import WebFetcher
from medrag_lightning.retrieval import guarded_https
from medrag_lightning.retrieval.guarded_https import get, is_public
from medrag_lightning.retrieval.https_fetcher import HttpsFetcher

RESULTS = [
    {"url": "https://a.test/1", "title": "Pleural <b>effusion</b>", "content": "Fluid &amp; air<br>in the chest", "extra": 1},
    {"url": "javascript:alert(1)", "title": "x", "content": "y"},
    {"url": "https://a.test/picture", "title": "no text"},
    "nonsense",
    {"url": "https://a.test/2", "title": None, "content": "Second"},
]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path; keeps what it was asked."""

    asked: ClassVar[list] = []

    def do_GET(self):
        self.asked.append((self.path, dict(self.headers)))
        where = urlsplit(self.path).path
        if where in ("/moved", "/away", "/round", "/plain"):
            self.send_response(302)
            there = {
                "/moved": "/search?q=moved",
                "/away": "https://other.test/",
                "/round": "/round",
                "/plain": "http://localhost/",
            }
            self.send_header("Location", there[where])
            self.end_headers()
            return
        if where == "/slow":
            time.sleep(1.5)
        body = {"/long": b"x" * 5000, "/nojson": b"<html>", "/other": b'{"web": {"results": {}}}'}.get(where)
        self.send_response(503 if where == "/busy" else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"results": RESULTS}).encode() if body is None else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def engine(monkeypatch):
    """A server on this machine, without TLS; gives its address as if it had it."""
    monkeypatch.setattr(guarded_https, "secured", lambda plain, host: plain)
    Handler.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def fetcher(engine, path="/search?q={words}&n={count}", **settings):
    told = {"allow_network": True, "allow_private": True, "pause_seconds": 0, "timeout_seconds": 5} | settings
    return HttpsFetcher(engine + path, **told)


def test_pages_are_read_from_the_answer(engine, monkeypatch):
    monkeypatch.setenv("ENGINE_TOKEN", "secret")
    made = fetcher(engine, token_variable="ENGINE_TOKEN", token_header="X-Token")
    assert isinstance(made, WebFetcher)
    ((first, second),) = made.fetch(["chest & lung é"], 7)
    assert (first.url, first.title, first.text) == ("https://a.test/1", "Pleural effusion", "Fluid & air in the chest")
    assert (second.title, second.text) == ("", "Second")
    assert first.fetched.endswith("+00:00")
    ((path, headers),) = Handler.asked
    assert parse_qs(urlsplit(path).query) == {"q": ["chest & lung é"], "n": ["7"]}
    assert headers["X-Token"] == "secret"
    assert "secret" not in made.fingerprint() + made.endpoint
    assert len(made.fetch(["x"], 1)[0]) == 1
    assert made.fetch([], 1) == []
    monkeypatch.delenv("ENGINE_TOKEN")
    with pytest.raises(ValueError, match="ENGINE_TOKEN"):
        made.fetch(["x"], 1)


@pytest.mark.parametrize(
    ("path", "settings", "told"),
    [
        ("/busy", {}, "the answer is 503"),
        ("/away", {}, "redirects to another host"),
        ("/plain", {}, "redirects to another host"),
        ("/round", {}, "more than 3 times"),
        ("/long", {"max_bytes": 100}, "more than 100 bytes"),
        ("/slow", {"timeout_seconds": 0.3}, "timed out"),
        ("/nojson", {}, "Expecting value"),
        ("/other", {"results": "web.pages"}, "no 'web.pages'"),
        ("/other", {"results": "web.results"}, "is no list"),
        ("/search", {"allow_private": False}, "not public"),
    ],
)
def test_a_search_that_fails_is_told_and_finds_nothing(engine, caplog, path, settings, told):
    assert fetcher(engine, f"{path}?q={{words}}", **settings).fetch(["x"], 1) == [None]
    assert told in caplog.text
    assert "1 of 1 web searches failed" in caplog.text


def test_a_redirect_on_the_same_host_is_followed(engine):
    assert len(fetcher(engine, "/moved?q={words}").fetch(["x"], 5)[0]) == 2
    assert [path for path, _ in Handler.asked] == ["/moved?q=x", "/search?q=moved"]


def test_no_connection_to_an_address_that_is_not_public(monkeypatch):
    """Of several addresses one that is private is enough: which one is taken is not left to chance."""
    told = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: told)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was opened"))
    with pytest.raises(OSError, match="not public"):
        get("https://search.test/", {}, 1.0, 10, allow_private=False)


def test_a_certificate_that_nobody_vouches_for_is_refused(caplog):
    """TLS as it is: the server on the other side speaks none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].sendall(b"hello, no TLS here\n" * 20), daemon=True)
        thread.start()
        endpoint = f"https://localhost:{server.getsockname()[1]}/?q={{words}}"
        found = HttpsFetcher(endpoint, allow_network=True, allow_private=True, timeout_seconds=5).fetch(["x"], 1)
        thread.join()
    assert found == [None]
    assert "SSL" in caplog.text


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False), ("192.168.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("::1", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:127.0.0.1", False), ("::ffff:93.184.216.34", True), ("224.0.0.1", False),
    ],
)  # fmt: skip
def test_public_addresses(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"endpoint": "http://a.test/?q={words}"}, "must begin with https"),
        ({"endpoint": "https://me:pw@a.test/?q={words}"}, "without a user name"),
        ({"endpoint": "https://{words}/"}, "must begin with https"),
        ({"endpoint": "https://a.test/"}, "where the words go"),
        ({"endpoint": "https://a.test/{words}", "fields": {"link": "x"}}, "fields.link would be ignored"),
        ({"endpoint": "https://a.test/{words}", "timeout_seconds": 0}, "must be above 0"),
    ],
)
def test_settings_that_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        HttpsFetcher(**settings)
