"""What the studio takes in: rows F34, F35 and F37 of the faults."""

import json
import zlib

import pytest
from studio_origin import ORIGIN, png

from jeppa.studio.guard import BODY_BYTES, UPLOAD_BYTES, names_a_file


def test_the_page_is_served_in_both_languages_without_a_foreign_address(client):
    for language, word in (("en", "See what the model is sure of"), ("ru", "в чём модель уверена")):
        answer = client.get(f"/{language}/")
        assert answer.status_code == 200
        assert word in json.dumps(client.get(f"/{language}/config").json(), ensure_ascii=False)
        assert "connect-src 'self'" in answer.headers["content-security-policy"]
        assert f"jeppa_language={language}" in answer.headers["set-cookie"]


def test_the_root_goes_to_the_language_that_was_chosen_last(client):
    client.cookies.clear()
    assert client.get("/", headers={"accept-language": "ru-RU,ru"}).headers["location"] == "/ru/"
    assert client.get("/").headers["location"] == "/en/"
    assert client.get("/", cookies={"jeppa_language": "ru"}).headers["location"] == "/ru/"
    client.cookies.clear()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1:80"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": ORIGIN}, 200),
    ],
)
def test_foreign_hosts_and_origins_are_refused(client, headers: dict[str, str], status: int):
    assert client.get("/en/config", headers=headers).status_code == status


@pytest.mark.parametrize(
    "path",
    [
        "/en/gradio_api/file=/etc/passwd", "/en/gradio_api/file/etc/passwd", "/en/file=/etc/passwd",
        "/en/gradio_api/proxy=http://127.0.0.1:1/", "/en/gradio_api/upload", "/en/gradio_api/stream/x",
        "/en/static/../../../../etc/passwd", "/en/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/look/..%2fserver.py",
        "/look/server.py", "/shelf/../../etc/passwd", "/shelf/AAAAAAAAAAAAAAAAAAAAAA", "/en/monitoring",
        "/en/gradio_api/vibe-code", "/docs", "/openapi.json",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(client, path: str):
    answer = client.get(path)
    assert 400 <= answer.status_code < 500
    assert b"root:" not in answer.content


def test_an_upload_over_the_limit_is_refused_by_length_and_as_it_comes(client):
    assert client.post("/pictures", content=b"", headers={"content-length": str(UPLOAD_BYTES + 1)}).status_code == 413
    part = bytes(2**20)
    taken = 0

    def parts():
        nonlocal taken
        for _ in range(UPLOAD_BYTES // len(part) + 2):
            taken += 1
            yield part

    assert client.post("/pictures", content=parts()).status_code == 413


def test_other_bodies_are_small(client):
    assert client.post("/en/gradio_api/queue/join", content=bytes(BODY_BYTES + 1)).status_code == 413


def test_a_description_of_a_file_is_refused_wherever_it_stands(client):
    """Gradio would open the path or fetch the address."""
    file = {"path": "http://127.0.0.1:1/x", "meta": {"_type": "gradio.FileData"}}
    body = {"data": [[{"a": file}]], "fn_index": 0, "session_hash": "s"}
    assert client.post("/en/gradio_api/queue/join", json=body).status_code == 400
    assert names_a_file(rb'{"meta": {"_ty\u0070e": "gradio.FileData"}}')
    assert not names_a_file(b'{"data": [1, null, {"token": "x"}]}')


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"hello, this is a text", "not_a_picture"), (b"", "not_a_picture"), (png()[:60], "not_a_picture")],
)
def test_what_is_no_picture_is_refused_with_its_reason(client, content: bytes, code: str):
    answer = client.post("/pictures", content=content, headers={"x-name": "a.txt"})
    assert answer.status_code == 422
    assert answer.json()["code"] == code
    assert answer.json()["name"] == "a.txt"


def test_a_header_of_200_megapixels_is_refused_before_it_is_decoded(client):
    header = bytearray(png(1, 1))
    header[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    answer = client.post("/pictures", content=bytes(header), headers={"x-name": "big.png"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "too_many_pixels"
