"""What JPEG and WebP make of a picture in a given number of bytes: a sanity line beside a latent of that size."""

import io
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Codec:
    """A lossy format of Pillow, at its greatest effort, with colour at half resolution.

    Args:
        format: Pillow's name.
        qualities: all that it takes, rising.
        options: of saving.
    """

    format: str
    qualities: range
    options: dict[str, Any]

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """The whole file, headers included."""
        stream = io.BytesIO()
        image.save(stream, format=self.format, quality=quality, **self.options)
        return stream.getvalue()


CODECS = {
    "JPEG": Codec("JPEG", range(1, 96), {"optimize": True, "progressive": True}),
    "WebP": Codec("WEBP", range(101), {"method": 6}),
}


@dataclass(frozen=True)
class Coded:
    """A picture after a codec.

    Args:
        pixels: decoded, uint8 `[H,W,3]`.
        size: of the file in bytes.
        quality: setting that made it.
        fits: False where even the lowest quality takes more bytes than there are; the picture is then that one.
    """

    pixels: Pixels
    size: int
    quality: int
    fits: bool


def code(pixels: Pixels, codec: Codec, budget: int) -> Coded:
    """The best quality whose file has at most `budget` bytes, by bisection.

    Sizes grow with quality but for single bytes; what is found fits in any case.

    Args:
        pixels: uint8 `[H,W,3]`.
        codec: one of `CODECS`.
        budget: in bytes.
    """
    image = Image.fromarray(pixels)
    fitting = bisect_right(codec.qualities, budget, key=lambda quality: len(codec.encode(image, quality)))
    quality = codec.qualities[max(0, fitting - 1)]
    file = codec.encode(image, quality)
    return Coded(np.array(Image.open(io.BytesIO(file)).convert("RGB")), len(file), quality, fitting > 0)
