"""The application around the page: routes for pictures, a port on 127.0.0.1, and an orderly end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

# Before gradio is imported: nothing leaves the machine.
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from jeppa.config import Precision
from jeppa.data import read_pixels_limited
from jeppa.data.limited import Limits
from jeppa.errors import ConfigError, DataError, JeppaError
from jeppa.studio.first import PHOTOS, SIDE, FirstLook
from jeppa.studio.guard import Guard
from jeppa.studio.models import Models
from jeppa.studio.page import build_page, mount
from jeppa.studio.parts import thumbnail
from jeppa.studio.runs import Trainings
from jeppa.studio.shelf import Kept, Shelf
from jeppa.studio.texts import LANGUAGES, Language

HOST = "127.0.0.1"
PORT = 7860
COOKIE = "jeppa_language"
YEAR = 365 * 86400
MAX_PIXELS = 24_000_000
DRAIN_SECONDS = 3
STATIC = Path(__file__).parent / "static"
SCRIPT = "text/javascript; charset=utf-8"
MEDIA = {"session.js": SCRIPT, "studio.js": SCRIPT, "studio.css": "text/css; charset=utf-8"}
PNG = b"\x89PNG\r\n\x1a\n"


def make_app(
    models: Models,
    port: int,
    language: Language | None = None,
    trainings: Trainings | None = None,
    first: FirstLook | None = None,
) -> Guard:
    """The whole application.

    Args:
        models: to choose from.
        port: that it will be served at, which requests must name.
        language: of `/` for a browser that has not chosen one; by its own wish unless given.
        trainings: started here; a new set unless given.
        first: the first picture, if another process looks at it.
    """
    shelf = Shelf()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_pages(app, language)
    _add_pictures(app, shelf)
    started = trainings or Trainings()
    for one in LANGUAGES:
        mount(app, build_page(models, shelf, started, one, first), one, port)
    return Guard(app, [f"{name}:{port}" for name in (HOST, "localhost", "[::1]")])


def serve(
    given: Sequence[str],
    port: int | None,
    language: Language | None,
    precision: Precision,
    first: FirstLook | None = None,
) -> None:
    """Serve the studio until a signal comes.

    Args:
        given: models to offer first.
        port: to listen at; 7860, or any free one, unless given.
        language: see `make_app`.
        precision: as for `load_model`.
        first: the first picture, which another process looks at meanwhile.

    Raises:
        ConfigError: the port is in use, or no port.
        CheckpointError: a given model cannot be opened.
    """
    listening = open_port(port)
    models = Models(given, precision)
    for name in given:
        models.open(name)
    if first is not None:
        first.then = partial(_open_quietly, models)
    trainings = Trainings()
    number = listening.getsockname()[1]
    app = make_app(models, number, language, trainings, first)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=DRAIN_SECONDS, server_header=False,
                            h11_max_incomplete_event_size=64 * 2**10, timeout_keep_alive=20)  # fmt: skip
    logging.getLogger("uvicorn.error").addFilter(_no_cancelled)
    sys.stdout.write(f"studio: http://{HOST}:{number}/ (Ctrl-C ends it)\n")
    sys.stdout.flush()
    try:
        _Server(config).run(sockets=[listening])
    finally:
        trainings.close()


def _open_quietly(models: Models) -> None:
    """Read all that a model needs before someone asks; what goes wrong is told to whoever does."""
    with contextlib.suppress(JeppaError):
        models.open(models.names()[0])


def _no_cancelled(record: logging.LogRecord) -> bool:
    """Whether a record is worth a line: a stream that the end of the server cuts off is not."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def open_port(wanted: int | None) -> socket.socket:
    """A listening socket on 127.0.0.1.

    Raises:
        ConfigError: the port is in use, or out of range.
    """
    if wanted is not None and not 1 <= wanted <= 65535:
        raise ConfigError(f"port is {wanted}, but must lie in 1 to 65535")
    for port in (PORT, 0) if wanted is None else (wanted,):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            listening.close()
            if wanted is not None:
                raise ConfigError(
                    f"port {wanted} cannot be used ({error.strerror}): leave --port out, or give another"
                ) from None
            continue
        listening.listen(128)
        return listening
    raise ConfigError("no port is free on 127.0.0.1")


class _Server(uvicorn.Server):
    """Ends with exit code 0 after SIGINT or SIGTERM, as a server should that was asked to."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, without sending the signal again afterwards."""
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _add_pages(app: FastAPI, language: Language | None) -> None:
    @app.get("/")
    async def start(request: Request) -> Response:
        """To the page in the language that was chosen last, or is asked for."""
        chosen = request.cookies.get(COOKIE)
        if chosen not in LANGUAGES:
            wanted = request.headers.get("accept-language", "").lower()
            chosen = language or ("ru" if wanted.startswith("ru") else "en")
        return RedirectResponse(f"/{chosen}/", status_code=307)

    @app.middleware("http")
    async def remember(request: Request, follow: Any) -> Response:
        """The language of the page that is opened is the one that `/` goes to next."""
        answer: Response = await follow(request)
        opened = request.url.path.strip("/")
        if opened in LANGUAGES:
            answer.set_cookie(COOKIE, opened, max_age=YEAR, samesite="strict", httponly=True)
        return answer

    @app.get("/favicon.ico")
    async def icon() -> Response:
        """None; browsers ask for it all the same."""
        return Response(status_code=204)

    @app.get("/look/{name}")
    async def look(name: str) -> Response:
        """Scripts, styles and the thumbnails of the built-in photographs."""
        if name in MEDIA:
            return Response((STATIC / name).read_bytes(), media_type=MEDIA[name], headers={"cache-control": "no-cache"})
        asked, _, side = name.removesuffix(".jpg").partition("-")
        if asked in PHOTOS and side in ("", str(SIDE)):
            content = await asyncio.to_thread(thumbnail, asked, int(side or 112))
            return Response(content, media_type="image/jpeg", headers={"cache-control": "max-age=86400"})
        return JSONResponse({"detail": "no such file"}, 404)


def _add_pictures(app: FastAPI, shelf: Shelf) -> None:
    decoding = asyncio.Semaphore(2)

    @app.post("/pictures")
    async def take(request: Request) -> Response:
        """Decode a picture in a limited process and keep it; answers its name, size and the settings in it."""
        from jeppa.data.images import png_bytes, read_settings

        content = await request.body()
        name = unquote(request.headers.get("x-name", "picture"))[:200]
        async with decoding:
            try:
                pixels = await asyncio.to_thread(read_pixels_limited, content, name, Limits(pixels=MAX_PIXELS))
            except DataError as error:
                return JSONResponse({"code": _code(str(error)), "detail": str(error), "name": name}, 422)
        settings: dict[str, str] = {}
        if content.startswith(PNG):
            with contextlib.suppress(DataError):
                settings = await asyncio.to_thread(read_settings, content, name)
        shown = content if content.startswith(PNG) else await asyncio.to_thread(png_bytes, pixels)
        token = shelf.put(Kept(shown, "image/png", name, pixels, None, settings))
        height, width, _ = pixels.shape
        return JSONResponse({"token": token, "width": width, "height": height, "settings": settings})

    @app.get("/shelf/{token}")
    async def give(token: str) -> Response:
        """A file of the shelf."""
        kept = shelf.get(token)
        if kept is None or not kept.content:
            return JSONResponse({"detail": "no such picture"}, 404)
        safe = "".join(one if one.isascii() and (one.isalnum() or one in "-_.") else "-" for one in kept.name)
        headers = {
            "content-disposition": f'inline; filename="{safe}"',
            "cache-control": "private, max-age=3600, immutable",
        }
        return Response(kept.content, media_type=kept.media, headers=headers)

    @app.get("/shelf/{token}/pixel")
    async def pixel(token: str, row: int, column: int, level: float = 0.9) -> Response:
        """Value, mean, sigma and interval of one pixel."""
        kept = shelf.get(token)
        if kept is None:
            return JSONResponse({"detail": "no such picture"}, 404)
        if kept.look is None:
            return Response(status_code=204)  # the model is still being loaded
        try:
            return JSONResponse(vars(kept.look.at(row, column, level)))
        except JeppaError as error:
            return JSONResponse({"detail": str(error)}, 422)


def _code(message: str) -> str:
    """What the page says of a refused picture: too_many_pixels or not_a_picture."""
    return "too_many_pixels" if message.endswith("pixels; scale it down") else "not_a_picture"
