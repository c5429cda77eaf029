"""What may come in: the guard before every request.

A page on 127.0.0.1 can be asked by any other page that the same browser has open, and by a foreign name that resolves
to 127.0.0.1. So a request must name this host, and come from this page. Of gradio's routes only those that the page
needs exist: none that takes or serves files, fetches an address or opens a stream. Bodies are small, counted as they
come and read within a deadline; the one upload is ours and larger.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

UPLOAD = "/pictures"
UPLOAD_BYTES = 64 * 2**20
BODY_BYTES = 256 * 2**10
BODY_SECONDS = 60.0
ALLOWED = re.compile(
    r"/|/(pictures|shelf/[\w-]{22}(/pixel)?|look/[\w.-]+|favicon\.ico)"
    r"|/(en|ru)/?"
    r"|/(en|ru)/(config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(static|assets|svelte)/[\w./@-]+"
    r"|gradio_api/(info/?|app_id/?|startup-events|theme\.css|queue/(join|data)|cancel|reset/?|heartbeat/\w+"
    r"|call/\w+(/\w+)?))"
)
HEADERS = {
    b"content-security-policy": b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    b"frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
FULL = {
    "en": "The queue is full: many pictures are being made. Wait a moment and try again.",
    "ru": "Очередь заполнена: сейчас создаётся много картинок. Подождите немного и попробуйте ещё раз.",
}


class Guard:
    """An ASGI application around another, which it protects.

    Args:
        app: the application.
        hosts: values of the Host header that are ours, with the port.
    """

    def __init__(self, app: App, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._origins = frozenset(f"http://{host}" for host in self._hosts)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        limit = UPLOAD_BYTES if scope["path"] == UPLOAD else BODY_BYTES
        if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
            try:
                body = await asyncio.wait_for(_body(receive, limit), BODY_SECONDS)
            except _TooLargeError:
                await _refuse(send, 413, f"more than {limit:,} bytes")
                return
            except (TimeoutError, _GoneError):
                await _refuse(send, 408, "the request came too slowly")
                return
            if scope["path"] != UPLOAD and names_a_file(body):
                await _refuse(send, 400, "files and addresses are not taken here")
                return
            receive = _replayed(body, receive)
        await self._app(scope, receive, _with_headers(send, scope["path"]))

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
        if host not in self._hosts:
            return 421, "this host is not served"
        if origin and origin not in self._origins:
            return 403, "requests of other pages are refused"
        if headers.get(b"sec-fetch-site", b"none").decode("latin-1") not in ("none", "same-origin"):
            return 403, "requests of other pages are refused"
        if not ALLOWED.fullmatch(scope["path"]) or ".." in scope["path"]:
            return 404, "no such page"
        length = headers.get(b"content-length", b"0")
        limit = UPLOAD_BYTES if scope["path"] == UPLOAD else BODY_BYTES
        if not length.isdigit() or int(length) > limit:
            return 413, f"more than {limit:,} bytes"
        return None


def names_a_file(body: bytes) -> bool:
    """Whether a JSON body holds gradio's description of a file, which makes it open a path or fetch an address."""
    try:
        return _names_a_file(json.loads(body))
    except (ValueError, RecursionError):
        return b"FileData" in body


def _names_a_file(value: Any) -> bool:
    if isinstance(value, dict):
        meta = value.get("meta")
        named = isinstance(meta, dict) and "_type" in meta
        return named or any(_names_a_file(one) for one in value.values())
    return isinstance(value, list) and any(_names_a_file(one) for one in value)


class _TooLargeError(Exception):
    pass


class _GoneError(Exception):
    pass


async def _body(receive: Receive, limit: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _TooLargeError
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _with_headers(send: Send, path: str) -> Send:
    """Our headers on every answer; a full queue is told as 429 in the page's language, since nothing of ours failed."""
    full = False

    async def sending(message: Message) -> None:
        nonlocal full
        if message["type"] == "http.response.start":
            full = message["status"] == 503 and (path.endswith("/queue/join") or "/gradio_api/call/" in path)
            content = json.dumps({"detail": FULL["ru" if path.startswith("/ru") else "en"]}).encode() if full else b""
            kept = [(k, v) for k, v in message["headers"] if not (full and k.lower() == b"content-length")]
            length = [(b"content-length", str(len(content)).encode())] if full else []
            message = {**message, "status": 429 if full else message["status"]}
            await send({**message, "headers": [*kept, *length, *HEADERS.items()]})
            if full:
                await send({"type": "http.response.body", "body": content})
        elif not full:
            await send(message)

    return sending


async def _refuse(send: Send, status: int, reason: str) -> None:
    content = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *HEADERS.items()]})
    await send({"type": "http.response.body", "body": content})
