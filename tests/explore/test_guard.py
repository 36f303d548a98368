"""Only whoever has the token is answered; plain ASGI messages, no server."""

import asyncio
from typing import Any

import pytest

from spd_bench.explore.guard import Guard

TOKEN = "k3y"  # noqa: S105
Message = dict[str, Any]


async def application(scope: Message, receive: Any, send: Any) -> None:
    """Answers everything."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"inside"})
    elif scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "lifespan.startup.complete"})


def sent(kind: str = "http", query: str = "", app: Any = None, **headers: str) -> list[Message]:
    """What a request is answered; `content_length` is the header content-length."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "query_string": query.encode(), "headers": pairs}
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    guarded = app or Guard(application, token=TOKEN, cookie="explore_1", most_bytes=100)
    asyncio.run(guarded(scope, nothing, keep))
    return messages


def status(messages: list[Message]) -> int:
    return int(messages[0]["status"])


def header(messages: list[Message], name: bytes) -> str:
    return "; ".join(value.decode() for key, value in messages[0]["headers"] if key == name)


def test_the_token_in_the_url_opens_and_sets_a_cookie() -> None:
    opened = sent(query="a=1&token=k3y")
    assert status(opened) == 200
    assert opened[1]["body"] == b"inside"
    assert header(opened, b"set-cookie") == "explore_1=k3y; HttpOnly; SameSite=Strict; Path=/"
    assert header(opened, b"x-own") == "1"


def test_the_cookie_opens_and_is_not_set_again() -> None:
    opened = sent(cookie="other=2; explore_1=k3y")
    assert status(opened) == 200
    assert header(opened, b"set-cookie") == ""


@pytest.mark.parametrize(
    ("query", "cookie"),
    [
        ("", ""),
        ("token=", ""),
        ("token=k3", ""),
        ("token=k3y2", ""),
        ("token=K3Y", ""),
        ("token=k%C3%A9y", ""),
        ("key=k3y", ""),
        ("", "explore_1=k3"),
        ("", "explore_2=k3y"),
        ("", "k3y"),
        ("", "explore_1"),
        ("", 'explore_1="k3y"'),
    ],
)
def test_without_the_token_nothing_is_answered(query: str, cookie: str) -> None:
    refused = sent(query=query, cookie=cookie)
    assert status(refused) == 403
    assert b"?token=" in refused[1]["body"]
    assert header(refused, b"set-cookie") == ""


def test_a_websocket_needs_the_token_too() -> None:
    assert sent("websocket")[0] | {"reason": ""} == {"type": "websocket.close", "code": 1008, "reason": ""}
    assert sent("websocket", cookie="explore_1=k3")[0]["type"] == "websocket.close"
    assert sent("websocket", cookie="explore_1=k3y") == [{"type": "websocket.accept"}]
    assert sent("websocket", query="token=k3y") == [{"type": "websocket.accept"}]


def test_a_page_of_another_origin_is_refused_with_the_cookie() -> None:
    """Cookies do not tell ports apart: a page of localhost:9 would otherwise come in."""
    of = {"host": "localhost:8", "cookie": "explore_1=k3y"}
    assert sent("websocket", origin="http://localhost:9", **of)[0]["type"] == "websocket.close"
    assert sent("websocket", origin="null", **of)[0]["type"] == "websocket.close"
    assert status(sent(origin="http://evil.example", **of)) == 403
    assert status(sent(origin="http://localhost:8", **of)) == 200
    assert sent("websocket", origin="http://localhost:8", **of)[0]["type"] == "websocket.accept"


def test_long_bodies_are_refused_before_they_are_read() -> None:
    assert status(sent(query="token=k3y", content_length="100")) == 200
    assert status(sent(query="token=k3y", content_length="101")) == 413
    assert status(sent(query="token=k3y", content_length="-1")) == 411
    assert status(sent(query="token=k3y", transfer_encoding="chunked")) == 411


def test_the_browser_may_ask_no_other_machine() -> None:
    for messages in (sent(query="token=k3y"), sent()):
        policy = header(messages, b"content-security-policy")
        assert policy.startswith("default-src 'self' data: blob:")
        assert "http" not in policy
        assert header(messages, b"referrer-policy") == "no-referrer"


def test_the_start_of_the_server_passes() -> None:
    assert sent("lifespan") == [{"type": "lifespan.startup.complete"}]


def test_an_unguarded_application_is_told_apart() -> None:
    """The control: without the guard these tests would find an open page."""
    assert status(sent(app=application)) == 200
    assert sent("websocket", app=application) == [{"type": "websocket.accept"}]
