"""An ASGI application that answers only requests with the token, over HTTP and over WebSockets.

The token comes in the URL once (`?token=…`); the answer sets a cookie, which later requests carry. A page of another
origin is refused even with the cookie, since cookies do not tell ports apart.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

NO_TOKEN = "403: open the whole address that spd-bench explore printed, with ?token=… at its end"  # noqa: S105
FOREIGN = "403: another page asks for this one; open the address that spd-bench explore printed"
NO_LENGTH = "411: a request with a body has to say how long it is"
SAFE: Headers = [
    # the browser itself refuses whatever would come from another machine
    (
        b"content-security-policy",
        b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
"""Headers of every answer."""
POLICY_VIOLATION = 1008
"""The code with which a WebSocket is refused."""


class Guard:
    """Passes requests with the token to `app`, and refuses others."""

    def __init__(self, app: Asgi, *, token: str, cookie: str, most_bytes: int) -> None:
        """cookie: its name; two guards on one host need two names. most_bytes: the longest body that is accepted."""
        self.app = app
        self._token = token.encode()
        self._cookie = cookie
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, one WebSocket, or the start and end of the server."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif (refusal := self._refusal(scope)) is None:
            await self.app(scope, receive, self._safe(send, greets=self._in_query(scope)))
        elif scope["type"] == "http":
            await _refuse(send, *refusal)
        else:  # before it is accepted: the browser sees a handshake that failed
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal[1]})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and sentence for a request that is refused."""
        if not (self._in_query(scope) or self._in_cookies(scope)):
            return 403, NO_TOKEN
        origin, host = (b"".join(_values(scope, name)) for name in (b"origin", b"host"))
        if origin and urlsplit(origin.decode("latin-1")).netloc != host.decode("latin-1"):
            return 403, FOREIGN
        return self._too_long(scope)

    def _too_long(self, scope: Scope) -> tuple[int, str] | None:
        length = b"".join(_values(scope, b"content-length"))
        if list(_values(scope, b"transfer-encoding")) or (length and not length.isdigit()):
            return 411, NO_LENGTH
        if length and int(length) > self._most_bytes:
            return 413, f"413: {int(length)} bytes are too many, at most {self._most_bytes} are accepted"
        return None

    def _in_query(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return any(self._is_token(value) for value in given)

    def _in_cookies(self, scope: Scope) -> bool:
        pairs = [
            pair.strip().partition("=") for c in _values(scope, b"cookie") for pair in c.decode("latin-1").split(";")
        ]
        return any(self._is_token(value) for name, _, value in pairs if name == self._cookie)

    def _is_token(self, value: str) -> bool:
        return secrets.compare_digest(value.encode("latin-1", "replace"), self._token)

    def _safe(self, send: Send, *, greets: bool) -> Send:
        """`send` with the headers of SAFE, and with the cookie where the URL held the token."""
        more = list(SAFE)
        if greets:
            cookie = f"{self._cookie}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/"
            more.append((b"set-cookie", cookie.encode()))

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        return sending


def _values(scope: Scope, name: bytes) -> Iterable[bytes]:
    return (value for key, value in scope["headers"] if key.lower() == name)


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *SAFE]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
