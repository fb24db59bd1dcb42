"""The only place that opens connections to the web: HTTPS to one host, to public addresses, within a time and a size."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE_BYTES = 1 << 16


def get(url: str, headers: Mapping[str, str], timeout_seconds: float, max_bytes: int, allow_private: bool) -> bytes:
    """The body that `url` answers with. No proxy, no cookie, no script; a redirect is followed on the same host only.

    Args:
        url: begins with ``https://``.
        headers: sent with the request, and never to another host.
        timeout_seconds: for connecting and for each piece of the answer, and for all of its body together.
        max_bytes: a longer answer is refused.
        allow_private: whether the host may have an address that is not public (a hospital's own search engine).

    Raises:
        OSError: there is no such host, it has no public address, does not answer in time, or answers with something else.
    """
    ends = time.monotonic() + timeout_seconds
    for _ in range(MOST_REDIRECTS + 1):
        status, told, body = _ask(url, headers, ends, max_bytes, allow_private)
        if status not in _REDIRECTS:
            if status != 200:
                raise OSError(f"the answer is {status}")
            return body
        after = urljoin(url, told)
        if (urlsplit(after).scheme, urlsplit(after).netloc) != ("https", urlsplit(url).netloc):
            raise OSError("it redirects to another host, which is not followed")
        url = after
    raise OSError(f"it redirects more than {MOST_REDIRECTS} times")


def _ask(url: str, headers: Mapping[str, str], ends: float, max_bytes: int, allow_private: bool) -> tuple[int, str, bytes]:
    parts = urlsplit(url)
    assert parts.scheme == "https", "checked before"
    assert parts.hostname, "checked before"
    connection = _Guarded(parts.hostname, parts.port or 443, timeout=_left(ends))
    connection.allow_private = allow_private
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=dict(headers))
        answer = connection.getresponse()
        body = bytearray()
        while piece := answer.read1(_PIECE_BYTES):
            body += piece
            if len(body) > max_bytes:
                raise OSError(f"the answer has more than {max_bytes} bytes")
            if connection.sock is not None:
                connection.sock.settimeout(_left(ends))
        return answer.status, answer.getheader("Location") or "", bytes(body)
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer ({type(error).__name__})") from error
    finally:
        connection.close()


class _Guarded(http.client.HTTPConnection):
    """Looks the host up once, checks every address, and connects to one of those that were checked."""

    default_port = 443
    allow_private = False

    def connect(self) -> None:
        assert isinstance(self.timeout, float)
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(place[4][0]) for place in found))
        if not self.allow_private and not all(is_public(address) for address in addresses):
            raise OSError(f"{self.host} has an address that is not public; allow_private: true is for a host of your own")
        self.sock = secured(socket.create_connection((addresses[0], self.port), self.timeout), self.host)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet: not this machine, a local network, a link or a reserved range."""
    told = ipaddress.ip_address(address.split("%")[0])
    inner = getattr(told, "ipv4_mapped", None) or told
    return bool(inner.is_global) and not inner.is_multicast


def secured(plain: socket.socket, host: str) -> socket.socket:
    """The connection under TLS, the host's certificate checked."""
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("no whole answer in time")
    return left
