"""One picture and what the model is sure of: reconstruction, sigma, coverage, repeated round trips.

All answers are in 8-bit levels of sRGB, as a person reads them off the screen.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from jeppa.data.decode import Pixels
from jeppa.data.images import LEVELS_PER_UNIT, Levels, to_pixels, to_x
from jeppa.distributions import DiagonalGaussian
from jeppa.errors import ConfigError
from jeppa.pipeline.model import Model

MAX_TRIPS = 100
MISSED = (0, 229, 255, 255)
"""Of a coverage map: a colour that is not in magma."""
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Readout:
    """What is known of one pixel, red, green and blue, in 8-bit levels.

    Args:
        value: of the original.
        mean: of the reconstruction, not rounded to whole levels.
        sigma: predicted standard deviation; None, as are the ends, from a VAE without a sigma head.
        low: lower end of the central interval.
        high: upper end of it.
        level: probability of the interval.
    """

    value: Triple
    mean: Triple
    sigma: Triple | None
    low: Triple | None
    high: Triple | None
    level: float


@dataclass(frozen=True)
class Look:
    """A picture beside its reconstruction.

    Args:
        pixels: the original, uint8 `[H,W,3]`.
        mean: the reconstruction in 8-bit levels, not rounded, float16 `[H,W,3]`.
        sigma: its standard deviation in 8-bit levels, float16 `[H,W,3]`.
        has_sigma: whether that was learned or measured; a VAE without a sigma head has the same number everywhere.
    """

    pixels: Pixels
    mean: npt.NDArray[np.float16]
    sigma: npt.NDArray[np.float16]
    has_sigma: bool = True

    @property
    def reconstruction(self) -> Pixels:
        """The reconstruction, uint8 `[H,W,3]`."""
        return np.rint(np.clip(self.mean.astype(np.float32), 0.0, 255.0)).astype(np.uint8)

    @property
    def levels(self) -> Levels:
        """The sigma map, float32 `[H,W]`: the colours' variances are averaged before the root."""
        return np.asarray(np.sqrt(np.square(self.sigma.astype(np.float32)).mean(2)), np.float32)

    def at(self, row: int, column: int, level: float = 0.9) -> Readout:
        """What is known of one pixel, with the central interval of probability `level`.

        Raises:
            ConfigError: the pixel lies outside the picture, or the level outside (0, 1).
        """
        height, width, _ = self.pixels.shape
        if not (0 <= row < height and 0 <= column < width):
            raise ConfigError(f"pixel ({column}, {row}) lies outside a picture of {width}x{height}")
        mean, sigma = (part[row, column].astype(np.float64) for part in (self.mean, self.sigma))
        reach = interval_reach(level) * sigma
        value = self.pixels[row, column]
        if not self.has_sigma:
            return Readout(_triple(value), _triple(mean), None, None, None, level)
        return Readout(
            _triple(value), _triple(mean), _triple(sigma), _triple(mean - reach), _triple(mean + reach), level
        )

    def covered(self, level: float) -> tuple[npt.NDArray[np.bool_], float]:
        """Where all three colours of the original lie in their central interval, `[H,W]`, and the share of numbers.

        A calibrated model covers the share `level` of the numbers.

        Raises:
            ConfigError: a level outside (0, 1).
        """
        reach = interval_reach(level) * self.sigma.astype(np.float32)
        inside = np.abs(self.pixels - self.mean.astype(np.float32)) <= reach
        return np.asarray(inside.all(2)), float(inside.mean())


def _triple(values: npt.NDArray[Any]) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def look(model: Model, pixels: Pixels) -> Look:
    """Reconstruct a picture, uint8 `[H,W,3]` of any size, row by row."""
    mean, sigma = (np.empty(pixels.shape, np.float16) for _ in range(2))
    for rows in model.reconstruct_rows(pixels):
        place = slice(rows.top, rows.top + rows.mean.shape[2])
        mean[place] = ((rows.mean[0] + 1.0) * LEVELS_PER_UNIT).permute(1, 2, 0).cpu().numpy()
        sigma[place] = ((0.5 * rows.logvar[0]).exp() * LEVELS_PER_UNIT).permute(1, 2, 0).cpu().numpy()
    return Look(pixels, mean, sigma, model.lacks_sigma is None)


def interval_reach(level: float) -> float:
    """Standard deviations from the mean to either end of the central interval of a Gaussian; 1.645 for 0.9.

    Raises:
        ConfigError: a level outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level is {level}, but must lie strictly between 0 and 1")
    unit = DiagonalGaussian(torch.zeros(()), torch.zeros(()))
    return float(unit.quantile(0.5 + level / 2.0))


def draw_again(model: Model, pixels: Pixels, temperature: float, seed: int) -> Pixels:
    """The reconstruction with a residual drawn from p(x|z): uint8 `[H,W,3]`, the pixels of `jeppa reconstruct`.

    Args:
        model: with a VAE.
        pixels: uint8 `[H,W,3]`.
        temperature: size of the residual; 0 gives the mean, 1 a fair draw.
        seed: of the residual.

    Raises:
        ConfigError: a negative temperature, or one above 0 for a VAE without a sigma head.
    """
    if not 0.0 <= temperature < math.inf:
        raise ConfigError(f"temperature is {temperature}, but must be 0 or more; 1 is a fair draw")
    if temperature > 0.0 and model.lacks_sigma is not None:
        raise ConfigError(f"temperature is {temperature}, but {model.lacks_sigma}")
    return to_pixels(model.draw(to_x(pixels)[None], temperature, seed)[0])


def has_texture(model: Model) -> bool:
    """Whether the VAE has a texture head."""
    return model.codec.vae.texture_head is not None


def with_texture(model: Model, pixels: Pixels, k: float, seed: int) -> Pixels:
    """The reconstruction with texture within k sigma, uint8 `[H,W,3]`.

    Args:
        model: with a texture head.
        pixels: uint8 `[H,W,3]`.
        k: how many sigma a pixel may leave the mean by; 0 gives the mean.
        seed: of the head's noise.

    Raises:
        ConfigError: no texture head, or a negative k.
    """
    return to_pixels(model.reconstruct_with_texture(to_x(pixels)[None], k, seed)[0])


@dataclass(frozen=True)
class Trip:
    """A picture after so many round trips through encoder and decoder, each ending in 8-bit pixels.

    Args:
        number: of the trip, from 1.
        pixels: uint8 `[H,W,3]`.
        delta_e: mean CIEDE2000 difference to the original; 1 is just seen.
        drift: how far the mean of red, green and blue has moved from the original's, in 8-bit levels.
    """

    number: int
    pixels: Pixels
    delta_e: float
    drift: Triple


def round_trips(model: Model, pixels: Pixels, count: int) -> Iterator[Trip]:
    """Encode and decode again and again, as a picture that is edited often.

    Args:
        model: with a VAE.
        pixels: the original, uint8 `[H,W,3]`.
        count: how many trips, 1 to 100.

    Raises:
        ConfigError: a count out of range, at the call.
    """
    if not 1 <= count <= MAX_TRIPS:
        raise ConfigError(f"round trips is {count}, but must lie in 1 to {MAX_TRIPS}")
    return _trips(model, pixels, count)


def _trips(model: Model, pixels: Pixels, count: int) -> Iterator[Trip]:
    now = pixels
    for number in range(1, count + 1):
        now = look(model, now).reconstruction
        red, green, blue = (float(part) for part in now.mean((0, 1)) - pixels.mean((0, 1)))
        yield Trip(number, now, float(colour_differences(pixels, now).mean()), (red, green, blue))


def colour_differences(a: Pixels, b: Pixels) -> npt.NDArray[np.float64]:
    """CIEDE2000 of each pixel of two sRGB pictures, uint8 `[H,W,3]` each; `[H,W]`, about 1 is just seen.

    Source: Sharma, Wu and Dalal, The CIEDE2000 Color-Difference Formula, Color Res. Appl. 30(1), 2005.
    """
    return np.asarray(deltaE_ciede2000(rgb2lab(a), rgb2lab(b)), np.float64)


def coverage_map(found: Look, level: float) -> tuple[bytes, float]:
    """The pixels that the interval does not cover as a PNG, cyan on transparent, and the share of numbers covered.

    Args:
        found: a picture with its reconstruction.
        level: probability of the interval; errors as for `Look.covered`.
    """
    inside, share = found.covered(level)
    shown = np.zeros((*inside.shape, 4), np.uint8)
    shown[~inside] = MISSED
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, "PNG")
    return buffer.getvalue(), share
