"""A stranger's picture is decoded in a process that can crash, hang or run out of memory without taking us along."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jeppa.data.decode import read_pixels
from jeppa.data.limited import Limits, read_pixels_limited
from jeppa.errors import DataError


def png(side: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def refusal(source: bytes | Path, limits: Limits) -> str:
    with pytest.raises(DataError) as caught:
        read_pixels_limited(source, "odd\nname \0.png", limits)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("'odd\\nname \\x00.png': ")
    return message


def spoil(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process run `code` when a picture's pixels are loaded, as a taken-in decoder would."""
    (folder / "sitecustomize.py").write_text(
        f"import os, resource, signal, sys, time\nfrom PIL import Image\ndef load(image):\n    {code}\n"
        "Image.Image.load = load\nfrom PIL import ImageFile\nImageFile.ImageFile.load = load\n"
    )
    monkeypatch.syspath_prepend(folder)


def test_pixels_and_refusals_are_those_of_the_plain_reader(tmp_path: Path):
    """Red when height and width are exchanged, or the line of the process is not handed on."""
    (tmp_path / "a.png").write_bytes(png(20))
    pixels = read_pixels_limited(tmp_path / "a.png")
    assert np.array_equal(pixels, read_pixels(png(20)))
    pixels[0, 0] = 0  # not a read-only view
    assert "it is 23 x 20 pixels, limit 100 pixels" in refusal(png(20), Limits(pixels=100))


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("bytearray(8 * 2**30)", "more memory than it may have"),
        ("[None for _ in iter(int, 1)]", "took"),
        ("time.sleep(60)", "took more than 3 s"),
        ("open('/tmp/written-by-a-picture', 'w').write('x' * 9) and sys.stdout.flush()", "stopped"),
    ],
)
def test_a_decoder_that_misbehaves_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, word: str):
    """Red, each for its own case, when that limit is not set or the exit code is not looked at."""
    code = code.replace("/tmp/written-by-a-picture", str(tmp_path / "written"))
    spoil(tmp_path, code, monkeypatch)
    message = refusal(png(8), Limits(pixels=1000, seconds=1))
    if word != "stopped":
        assert word in message
    assert not (tmp_path / "written").exists() or (tmp_path / "written").stat().st_size == 0
