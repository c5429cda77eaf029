"""Decode a stranger's picture in a process of its own, with limits on memory, time, files and answer.

Image decoders are large programs in C, and a file can be made to exploit a flaw in them. If decoding crashes, hangs or
takes too much memory, only this process ends, which can open few files and write none, and the caller gets an error of
one line. That costs about a fifth of a second for each picture. So it is meant for single pictures that somebody hands
in (`--input`, `--a`, `--b` and `--mask` of the command line, uploads), not for data sets that are read a million times.

The limits bound what a decoder can use up. They are no sandbox: a decoder that an attacker has taken over has the
rights of the user. Memory is limited on Linux only, since macOS ignores RLIMIT_AS.
"""

import os
import resource
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jeppa.data.decode import MAX_FILE_BYTES, MAX_PIXELS, Pixels, read_file, read_pixels
from jeppa.errors import DataError

REFUSED = 3
_SIZE = struct.Struct("<II")
_MAX_LINE = 2000
# A file name can hold anything, so the process does not get it: it passes "", for which read_pixels says 'image'.
_CALLED = "'image': "
# Address space that Python, numpy and Pillow reserve before any picture; then four bytes a pixel, in up to four copies.
_BASE_BYTES = 768 * 2**20
_BYTES_PER_PIXEL = 16


@dataclass(frozen=True)
class Limits:
    """Limits on the decoding of one picture.

    Args:
        pixels: largest width x height.
        seconds: processor time; three times as much real time is allowed.
        files: open files, of which Python itself needs a dozen to start.
    """

    pixels: int = MAX_PIXELS
    seconds: int = 20
    files: int = 32

    @property
    def memory(self) -> int:
        """Bytes of address space."""
        return _BASE_BYTES + _BYTES_PER_PIXEL * self.pixels


DEFAULT = Limits()


def read_pixels_limited(source: Path | bytes, name: str | None = None, limits: Limits = DEFAULT) -> Pixels:
    """Decode one image to 8-bit sRGB as `jeppa.data.read_pixels` does, in a limited process.

    Args:
        source: a regular file, or the content of one.
        name: what errors call the image; the path by default.
        limits: on memory, time and files.

    Returns:
        uint8 `[H,W,3]`.

    Raises:
        DataError: as `read_pixels`, and where a limit is reached or the decoder crashes.
    """
    called = name or (str(source) if isinstance(source, Path) else "image")
    data = source if isinstance(source, bytes) else read_file(source, called)
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"{called!r}: it has {len(data):,} bytes, limit {MAX_FILE_BYTES:,}; convert it to PNG or JPEG")
    answer = _ask(data, called, limits)
    height, width = _SIZE.unpack_from(answer)
    pixels = np.frombuffer(answer, np.uint8, offset=_SIZE.size)
    return pixels.reshape(height, width, 3).copy()  # bytes are read-only, and to_x may keep a view


def _ask(data: bytes, name: str, limits: Limits) -> bytes:
    """Run the process and return its answer: size and pixels, as `_serve` writes them."""
    # -P keeps the current folder, which may be a stranger's too, out of the places that modules are imported from.
    numbers = map(str, (limits.pixels, limits.seconds, limits.files))
    command = [sys.executable, "-P", "-W", "ignore", "-m", __name__, *numbers]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, env=environment, timeout=3 * limits.seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{name!r}: decoding took more than {3 * limits.seconds} s; do not use this file") from None
    except OSError as error:
        raise DataError(f"{name!r}: no process to decode it in ({error.strerror}); try again") from None
    if done.returncode == REFUSED:
        problem = " ".join(done.stderr[:_MAX_LINE].decode(errors="replace").split())
        raise DataError(f"{name!r}: {problem.removeprefix(_CALLED)}")
    if done.returncode != 0:
        raise DataError(f"{name!r}: its decoder was stopped ({_explain_exit(done.returncode)}); do not use this file")
    return done.stdout


def _explain_exit(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "it took too long"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}, as when memory runs out"


def _apply(limits: Limits) -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    # At the lower limit comes SIGXCPU, which tells the reason, and at the upper one SIGKILL.
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 1))


def _serve(arguments: list[str]) -> int:
    """The process itself: set the limits, read a file from standard input, write size and pixels to standard output."""
    limits = Limits(*map(int, arguments))
    _apply(limits)
    try:
        pixels = read_pixels(sys.stdin.buffer.read(), "", limits.pixels)
    except DataError as error:
        sys.stderr.write(str(error))
        return REFUSED
    except MemoryError:
        sys.stderr.write("it needs more memory than it may have; scale it down")
        return REFUSED
    sys.stdout.buffer.write(_SIZE.pack(*pixels.shape[:2]))
    sys.stdout.buffer.write(pixels.data)
    return 0


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[1:]))
