"""The rows of the studio, F32 to F39, asked of a real server on a tiny model."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import images
import numpy as np
import pytest
from children import start, wait_for
from PIL import Image

pytest.importorskip("gradio")

import httpx
import uvicorn

from jeppa.studio import guard, server
from jeppa.studio.models import Models
from jeppa.studio.page import QUEUE
from jeppa.studio.shelf import Shelf

Seen = Callable[[str], None]
CALL = "/en/gradio_api/call"
CLIENTS = 50
WARM, MEASURED = 200, 1000


def picture(seed: int = 0, height: int = 24, width: int = 40) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return images.encoded(Image.fromarray(pixels))


def settings(model: str, seed: int, steps: int = 2, watch: str = "none") -> list[Any]:
    """Arguments of `generate` for one picture."""
    return [model, "", seed, steps, 0, 1, "learned", 1, 1, 1, 0, watch]


@contextlib.contextmanager
def served(app: Any, listening: socket.socket) -> Iterator[str]:
    """The address of an application that a thread serves."""
    host, port = listening.getsockname()
    running = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=3))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    address = f"http://{host}:{port}"
    with httpx.Client(base_url=address, timeout=60) as client:
        wait_for(lambda: running.started and client.get("/en/config").status_code == 200, 60)
    yield address
    running.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def model(diffusion_folder: Path) -> str:
    return str(diffusion_folder)


@pytest.fixture(scope="module")
def address(model: str) -> Iterator[str]:
    listening = server.open_port(None)
    app = server.make_app(Models([model], "exact"), listening.getsockname()[1])
    with served(app, listening) as found:
        yield found


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=120) as found:
        yield found


def result(client: httpx.Client, event: str, name: str = "generate") -> list[Any]:
    """The last data of an event that was asked for."""
    lines = client.get(f"{CALL}/{name}/{event}").text.splitlines()
    assert "event: complete" in lines, lines[-4:]
    answer: list[Any] = json.loads([line for line in lines if line.startswith("data: [")][-1][6:])
    return answer


def asked(client: httpx.Client, values: list[Any], name: str = "generate") -> list[Any]:
    """Ask and wait."""
    answer = client.post(f"{CALL}/{name}", json={"data": values})
    assert answer.status_code == 200, answer.text
    return result(client, answer.json()["event_id"], name)


def drawn(client: httpx.Client, answer: list[Any]) -> str:
    """A hash of the pixels of the one picture that was drawn."""
    (item,) = answer[1]["items"]
    with Image.open(io.BytesIO(client.get(f"/shelf/{item['token']}").content)) as image:
        return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def test_F32_a_crowd_is_answered(address: str, model: str, seen: Seen) -> None:
    """50 clients, one at work, 16 in line: each gets its picture or is told that the queue is full; no 5xx.

    Without `max_size` of the queue none is refused; without the guard's translation of 503 the row sees a 5xx.
    """
    gate = threading.Barrier(CLIENTS)

    def one(seed: int) -> tuple[int, bool]:
        with httpx.Client(base_url=address, timeout=120) as client:
            gate.wait()
            answer = client.post(f"{CALL}/generate", json={"data": settings(model, seed, 40)})
            if answer.status_code != 200:
                return answer.status_code, "full" in answer.json()["detail"]
            return 200, result(client, answer.json()["event_id"])[2]["text"] == "Done. Pictures: 1."

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(one, range(CLIENTS)))
    served_ = [good for status, good in answers if status == 200]
    refused = [good for status, good in answers if status == 429]
    assert len(served_) + len(refused) == CLIENTS
    assert all(served_)
    assert all(refused)
    assert len(served_) >= QUEUE
    assert refused
    seen(f"{len(served_)} got their picture, {len(refused)} were told that the queue is full")


def _resources() -> dict[str, float]:
    status = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in status if line.startswith(("VmRSS", "Threads"))}
    return {
        "MiB": int(found["VmRSS"]) / 1024,
        "threads": int(found["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
        "temporary": sum(len(files) for _, _, files in os.walk(tempfile.gettempdir())),
    }


@pytest.mark.slow
def test_F33_nothing_leaks(model: str, seen: Seen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """1,000 requests after 200 to warm up: memory +32 MiB at most, threads +0, open files +2, temporary files +0.

    Without the bound of the shelf (here 4 MB) memory grows with each picture; without that of gradio's sessions by 150
    MiB, since each call by name counts as one.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(server, "Shelf", partial(Shelf, 4 * 2**20))
    listening = server.open_port(None)
    app = server.make_app(Models([model], "exact"), listening.getsockname()[1])
    with served(app, listening) as address, httpx.Client(base_url=address, timeout=120) as client:
        token = client.post("/pictures", content=picture()).json()["token"]

        def work(count: int) -> None:
            for at in range(count):
                if at % 10 == 0:
                    asked(client, settings(model, at))
                elif at % 2:
                    viewer = asked(client, [{"token": token}, model, "512", 0.9], "look")[0]
                    assert client.get(f"/shelf/{viewer['original']}").status_code == 200
                else:
                    assert client.get("/en/config").status_code == 200

        work(WARM)
        before = _resources()
        work(MEASURED)
        after = _resources()
    grown = {name: after[name] - before[name] for name in before}
    assert grown["MiB"] <= 32, grown
    assert grown["threads"] <= 0, grown
    assert grown["files"] <= 2, grown
    assert grown["temporary"] <= 0, grown
    seen(", ".join(f"{name} {value:+.0f}" for name, value in grown.items()))


def test_F34_a_large_upload_is_not_taken_in(seen: Seen) -> None:
    """An upload over 64 MB, by its length or as it comes, is refused without being buffered.

    Without the check of the length its first part is asked for; without the count all of it is.
    """

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the application was asked")

    def refused(headers: list[tuple[bytes, bytes]], part: int) -> tuple[int, int]:
        taken, status = 0, 0

        async def receive() -> dict[str, Any]:
            nonlocal taken
            taken += part
            return {"type": "http.request", "body": bytes(part), "more_body": True}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {"type": "http", "method": "POST", "path": guard.UPLOAD, "headers": [(b"host", b"a:1"), *headers]}
        asyncio.run(guard.Guard(never, ["a:1"])(scope, receive, send))
        return status, taken

    limit = guard.UPLOAD_BYTES
    assert refused([(b"content-length", str(limit + 1).encode())], 2**20) == (413, 0)
    status, taken = refused([], 2**20)
    assert status == 413
    assert taken <= limit + 2**20
    seen(f"by length: 0 bytes taken; as it comes: {taken / 2**20:.0f} of 64 MiB, then refused")


def test_F35_bad_settings_are_named(client: httpx.Client, model: str, seen: Seen) -> None:
    """Bad JSON is a 4xx; NaN, steps of 10^9, a wrong type or too few arguments are refused, naming the field.

    Without `whole` and `real` gradio passes all of them on.
    """
    for body in (b"{", b"[]", b'{"data": 3}', b'{"data": null}', b"\xff\xfe", b"[" * 5000):
        answer = client.post(f"{CALL}/generate", content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, (body[:9], answer.status_code)
    fields = {
        2: "Seed",
        3: "Steps",
        4: "Eta",
        5: "Guidance",
        7: "Temperature",
        8: "Pictures",
        9: "Share",
        10: "Texture",
    }
    told = 0
    for at, name in fields.items():
        for value in (float("nan"), 1e9, "x", None, [1], {"a": 1}, True):
            values = settings(model, 0)
            values[at] = value
            if at == 2 and value == 1e9:
                continue  # a seed like any other
            body = json.dumps({"data": values}).encode()  # json writes NaN, as careless clients do
            answer = client.post(f"{CALL}/generate", content=body, headers={"content-type": "application/json"})
            status = result(client, answer.json()["event_id"])[-1]
            assert status["kind"] == "error", (name, value)
            assert name in status["text"], (name, value, status)
            told += 1
    seen(f"6 bodies that are no request: 4xx; {told} bad settings refused by their names")


def _joined(client: httpx.Client, values: list[Any], session: str) -> None:
    """Ask as the page does."""
    found = client.get("/en/config").json()["dependencies"]
    index = next(one["id"] for one in found if one["api_name"] == "generate")
    body = {"data": values, "fn_index": index, "session_hash": session}
    assert client.post("/en/gradio_api/queue/join", json=body).status_code == 200


def test_F36_the_slot_of_who_left_is_free(
    address: str, client: httpx.Client, model: str, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that leaves while its picture forms frees the slot within 2 s; a slow body holds none, and ends in 408.

    Where the iterator of who left is not closed, the next one waits for all its 1,000 steps.
    """
    _joined(client, settings(model, 0, 1000, "all"), "leaver")
    with client.stream("GET", "/en/gradio_api/queue/data", params={"session_hash": "leaver"}) as stream:
        for line in stream.iter_lines():
            if '"process_generating"' in line:
                break
    began = time.monotonic()
    asked(client, settings(model, 1))
    free = time.monotonic() - began
    assert free < 2.0 + 1.0  # its own two steps, on a busy machine

    host, port = address.removeprefix("http://").split(":")
    begun = f"POST {CALL}/generate HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 99\r\n\r\n{{".encode()
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(begun)
        began = time.monotonic()
        asked(client, settings(model, 2))
        beside = time.monotonic() - began
    assert beside < 3.0

    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(begun)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    seen(
        f"next picture {free:.2f} s after the other client left, {beside:.2f} s beside a slow body; 408 at the deadline"
    )


def test_F37_no_file_and_no_foreigner(client: httpx.Client, seen: Seen) -> None:
    """Paths out of the page, foreign Host or Origin, addresses to fetch: 4xx, and not a byte of a file.

    Without the list of routes gradio serves `file=`; without the check of JSON it fetches what `FileData` names.
    """
    paths = ["/en/gradio_api/file=/etc/passwd", "/en/file=/etc/passwd", "/en/static/../../../../etc/passwd",
             "/en/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/look/..%2f..%2fserver.py",
             "/shelf/../../etc/passwd", "/look/%2e%2e%2fpage.py", "/en/gradio_api/proxy=http://127.0.0.1:1/",
             "/en/gradio_api/upload", "//etc/passwd", "/en/gradio_api/stream/x/y/z"]  # fmt: skip
    for path in paths:
        answer = client.get(path)
        assert 400 <= answer.status_code < 500, path
        assert b"root:" not in answer.content
        assert b"import" not in answer.content
    foreign = [{"host": "evil.example"}, {"host": "127.0.0.1"}, {"origin": "http://evil.example"}, {"origin": "null"},
               {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}]  # fmt: skip
    for headers in foreign:
        assert 400 <= client.get("/en/config", headers=headers).status_code < 500, headers
        assert 400 <= client.post("/pictures", content=picture(), headers=headers).status_code < 500, headers
    file = {"path": "/etc/passwd", "url": "http://127.0.0.1:1/", "meta": {"_type": "gradio.FileData"}}
    for body in ({"data": [file]}, {"data": [[{"a": file}]]}, {"x": {"y": [file]}}):
        assert client.post(f"{CALL}/look", json=body).status_code == 400
    seen(f"{len(paths)} paths, {len(foreign)} foreign headers, 3 descriptions of files: all 4xx")


def test_F38_sessions_do_not_mix(address: str, client: httpx.Client, model: str, seen: Seen) -> None:
    """Eight seeds asked for at once give bitwise what they give one after another; no stream tells of another session.

    With one generator for all, or the stop of one session ending another's, pictures differ.
    """
    seeds = range(8)
    serial = [drawn(client, asked(client, settings(model, seed, 4))) for seed in seeds]

    def one(seed: int) -> str:
        with httpx.Client(base_url=address, timeout=120) as own:
            return drawn(own, asked(own, settings(model, seed, 4)))

    with ThreadPoolExecutor(len(seeds)) as pool:
        together = list(pool.map(one, seeds))
    assert together == serial
    assert len(set(serial)) == len(seeds)

    for session, seed in (("first", 11), ("second", 12)):
        _joined(client, settings(model, seed, 3), session)
    told: dict[str, str] = {}
    for session in ("first", "second"):
        with client.stream("GET", "/en/gradio_api/queue/data", params={"session_hash": session}) as stream:
            told[session] = "\n".join(stream.iter_lines())
    assert "seed 11" in told["first"]
    assert "seed 12" not in told["first"]
    assert "seed 12" in told["second"]
    assert "seed 11" not in told["second"]
    seen("8 of 8 pictures bitwise equal; 2 streams, each with its own pictures alone")


def serve_until_told(model: str, port: int) -> None:
    """What `jeppa studio` does."""
    server.serve([model], port, None, "exact")


@pytest.mark.slow
def test_F39_an_orderly_end(model: str, tmp_path: Path, seen: Seen) -> None:
    """SIGTERM while pictures are made: the server drains and ends within 10 s, exit 0.

    Without the bound of uvicorn's graceful end it waits for streams that do not end.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = start(tmp_path / "said.txt", serve_until_told, model, port)
    wait_for(lambda: "studio: http" in child.said(), 120)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for seed in range(6):
            answer = client.post(f"{CALL}/generate", json={"data": settings(model, seed, 900, "all")})
            assert answer.status_code == 200
        with client.stream("GET", f"{CALL}/generate/{answer.json()['event_id']}"):
            began = time.monotonic()
            child.signal(signal.SIGTERM)
            code = child.wait(30)
    seconds = time.monotonic() - began
    assert code == 0, child.said()
    assert seconds <= 10
    assert "Traceback" not in child.said()
    seen(f"6 pictures under way: ended after {seconds:.1f} s, exit 0")
