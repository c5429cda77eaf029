"""What the page shows of a picture; of the first one made by a process of its own, so that it is there in seconds.

The page needs gradio, a model needs torch and diffusers, and each takes seconds to be read. Two processes read them at
the same time: this one makes the page, the other looks at the first picture and hands over what is to be shown. Only
then does this one read the rest, while the visitor looks at the picture.
"""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from jeppa.data import open_source
from jeppa.data.decode import Pixels

if TYPE_CHECKING:
    from jeppa.pipeline import Look, Model

PHOTOS = ("coffee", "chelsea", "astronaut", "flower", "china", "rocket", "motorcycle_left")
"""Built-in photographs to pick; the first is shown when the page opens."""
SIDE = 512
LEVEL = 0.9
PATIENCE = 60.0


@dataclass(frozen=True)
class LookFiles:
    """A picture and what a model makes of it, ready to be shown.

    Args:
        original: a PNG, like the next three.
        reconstruction: with the model's name inside.
        sigma: coloured; empty, as is the next, from a VAE without a sigma head.
        missed: the pixels that the interval does not cover.
        share: of the numbers, that lie in their interval.
        mean: of sigma, in 8-bit levels.
        most: of sigma, in 8-bit levels.
        width: in pixels.
        height: in pixels.
        texture: whether the model can add texture.
    """

    original: bytes
    reconstruction: bytes
    sigma: bytes
    missed: bytes
    share: float
    mean: float
    most: float
    width: int
    height: int
    texture: bool


def make_look_files(model: "Model", pixels: Pixels, name: str, level: float) -> tuple[LookFiles, "Look"]:
    """Look at a picture, uint8 `[H,W,3]`, with the interval of probability `level`."""
    from jeppa.data.images import colour_map, png_bytes
    from jeppa.outputs import encode_settings
    from jeppa.pipeline import has_texture, look
    from jeppa.pipeline.looking import coverage_map

    found = look(model, pixels)
    about = dict(encode_settings(model=name))
    missed, share = coverage_map(found, level)
    height, width, _ = pixels.shape
    levels = found.levels
    return LookFiles(
        original=png_bytes(pixels),
        reconstruction=png_bytes(found.reconstruction, about),
        sigma=png_bytes(colour_map(levels), about) if found.has_sigma else b"",
        missed=missed if found.has_sigma else b"",
        share=share,
        mean=float(levels.mean()),
        most=float(levels.max()),
        width=width,
        height=height,
        texture=has_texture(model),
    ), found


@lru_cache(maxsize=len(PHOTOS))
def photo(name: str) -> Pixels:
    """A built-in photograph, uint8 `[H,W,3]`."""
    refs = {ref.name.rsplit(".", 1)[0]: ref for ref in open_source("builtin:photos").refs}
    return refs[name].read_pixels()


class FirstLook:
    """The first photograph, looked at in another process from now on.

    Args:
        model: shipped name or folder.
        precision: as for `load_model`.
        then: called in a thread once the picture is there, or is not to be had.
    """

    def __init__(self, model: str, precision: str, then: Callable[[], object] = lambda: None) -> None:
        self.model = model
        self.then = then
        self._sheets: LookFiles | None = None
        command = [sys.executable, "-m", "jeppa.studio.first", model, precision]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def take(self, chosen: Any, model: str, side: str, level: float) -> LookFiles | None:
        """Its sheets, if that is what is asked for; None for anything else, and if the process failed."""
        if chosen != {"builtin": PHOTOS[0]} or model != self.model or side != str(SIDE) or level != LEVEL:
            return None
        self._reader.join(PATIENCE)
        return self._sheets

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            told = json.loads(self._process.stdout.read())
            self._sheets = LookFiles(**{key: _decoded(value) for key, value in told.items()})
        except ValueError:
            pass  # it failed or was ended: the page looks at the picture itself, and tells what is wrong
        threading.Thread(target=self.then, daemon=True).start()


def _decoded(value: Any) -> Any:
    return base64.b64decode(value) if isinstance(value, str) else value


def hand_over() -> None:
    """`python -m jeppa.studio.first MODEL PRECISION`: the sheets of the first photograph, as JSON."""
    from jeppa.data.images import fit_within
    from jeppa.pipeline import load_model

    _, name, precision = sys.argv
    sheets, _ = make_look_files(load_model(name, precision), fit_within(photo(PHOTOS[0]), SIDE), name, LEVEL)  # type: ignore[arg-type]
    told = {key: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for key, value in asdict(sheets).items()}  # fmt: skip
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    hand_over()
