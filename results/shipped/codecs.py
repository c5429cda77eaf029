"""Pictures in as many bytes as their latents have numbers: the VAE, with a byte for each number, JPEG and WebP."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jeppa.data import ImageSource, evaluation_images, to_pixels, to_x
from jeppa.data.decode import Pixels
from jeppa.lab import metrics
from jeppa.lab.evaluate import load_nets, pick_evenly
from jeppa.lab.measure import Nets
from jeppa.lab.statistics import bootstrap_mean
from jeppa.vae.codec import LatentCodec
from results.record import Json

LEVELS = 127
REACH = 6.0
"""The 8 bits of a number cover so many standard deviations of the latent to either side; the rest is cut off."""
LATENT = "latent of one byte a number"
LIKENESS = ("psnr", "ssim", "lpips_alex", "lpips_vgg")

Row = dict[str, float]


@dataclass(frozen=True)
class Codec:
    """A lossy format of Pillow, at its greatest effort, with colour at half resolution.

    Args:
        format: Pillow's name.
        qualities: all that the format has, rising.
        options: of `Image.save`.
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
        size: of the file, in bytes.
        quality: with which it was saved.
        fits: False if even the lowest quality takes more bytes than allowed; the file is then of this quality.
    """

    pixels: Pixels
    size: int
    quality: int
    fits: bool


def compress(pixels: Pixels, codec: Codec, budget: int) -> Coded:
    """The best quality whose file has at most `budget` bytes, by bisection.

    Now and then a file is a few bytes smaller at a higher quality, so the result may miss the best one; it always fits.

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


def measure_codecs(codec: LatentCodec, source: ImageSource, side: int, limit: int | None) -> Json:
    """Means over pictures for the latent and each codec, with bootstrap intervals, on the pictures of `evaluate`.

    `size` is in bytes; `share_fitting` is the share of files that have at most as many bytes as the latent.
    """
    nets, _ = load_nets(perceptual=True)
    part = replace(source, refs=tuple(source.refs[index] for index in pick_evenly(len(source), limit)))
    rows: dict[str, list[Row]] = {name: [] for name in (LATENT, *CODECS)}
    for _, x in evaluation_images(part, side):
        z0 = quantise(codec.encode(x[None]).mean)
        likeness = measure_likeness(x[None], codec.decode(z0).mean, nets)
        rows[LATENT].append({**likeness, "size": float(z0.numel()), "share_fitting": 1.0})
        for name, lossy in CODECS.items():
            coded = compress(to_pixels(x), lossy, z0.numel())
            file = {"size": float(coded.size), "share_fitting": float(coded.fits), "quality": float(coded.quality)}
            rows[name].append({**measure_likeness(x[None], to_x(coded.pixels)[None], nets), **file})
    return {name: average_rows(pictures) for name, pictures in rows.items()}


def quantise(z0: Tensor) -> Tensor:
    """Standardised latents as one signed byte for each number restores them, in equal steps up to `REACH`.

    The steps are the same for every picture, so nothing but the bytes must be stored.
    """
    return (z0 * (LEVELS / REACH)).round().clamp(-LEVELS, LEVELS) * (REACH / LEVELS)


def measure_likeness(x: Tensor, recon: Tensor, nets: Nets) -> Row:
    """How much `recon`, `[1,3,H,W]`, resembles the original; NaN where the weights of a net are not installed."""
    row = {"psnr": float(metrics.psnr(x, recon)), "ssim": float(metrics.ssim(x, recon))}
    for key, net in (("lpips_alex", nets.lpips_alex), ("lpips_vgg", nets.lpips_vgg)):
        row[key] = torch.nan if net is None else float(net(x, recon))
    return row


def average_rows(rows: Sequence[Row]) -> Json:
    """Mean over pictures of every figure, and its bootstrap interval under the key with `_ci95`."""
    means: Json = {}
    for key in rows[0]:
        estimate = bootstrap_mean(np.array([row[key] for row in rows]))
        means[key], means[f"{key}_ci95"] = estimate.mean, [estimate.lo, estimate.hi]
    return means
