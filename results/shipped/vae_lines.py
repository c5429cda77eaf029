"""Pictures at the bytes of their latents: the VAE with one byte for each number of the latent, JPEG and WebP."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jeppa.data import ImageSource, evaluation_images, to_pixels, to_x
from jeppa.lab import metrics
from jeppa.lab.evaluate import load_nets, spread
from jeppa.lab.measure import Nets
from jeppa.lab.statistics import bootstrap_mean
from jeppa.vae.codec import LatentCodec
from shipped.lossy import CODECS, code

LEVELS = 127
REACH = 6.0
"""Standard deviations of the latent that 8 bits reach to either side; what lies beyond is cut off."""
LATENT = "latent of one byte a number"
LIKENESS = ("psnr", "ssim", "lpips_alex", "lpips_vgg")

Json = dict[str, Any]
Row = dict[str, float]


def lines(codec: LatentCodec, source: ImageSource, side: int, limit: int | None) -> Json:
    """Each way's means with their bootstrap intervals, on the pictures that `evaluate` takes.

    `size` is in bytes; `share_fitting` is 1 where every file has at most the bytes of the latent.
    """
    nets, _ = load_nets(perceptual=True)
    part = replace(source, refs=tuple(source.refs[index] for index in spread(len(source), limit)))
    rows: dict[str, list[Row]] = {name: [] for name in (LATENT, *CODECS)}
    for _, x in evaluation_images(part, side):
        z0 = quantise(codec.encode(x[None]).mean)
        found = {"size": float(z0.numel()), "share_fitting": 1.0}
        rows[LATENT].append({**likeness(x[None], codec.decode(z0).mean, nets), **found})
        for name, lossy in CODECS.items():
            coded = code(to_pixels(x), lossy, z0.numel())
            found = {"size": float(coded.size), "share_fitting": float(coded.fits), "quality": float(coded.quality)}
            rows[name].append({**likeness(x[None], to_x(coded.pixels)[None], nets), **found})
    return {name: _means(found) for name, found in rows.items()}


def quantise(z0: Tensor) -> Tensor:
    """Standardised latents as they come back from one signed byte for each number, in equal steps to `REACH`.

    The steps are the same for every picture, so nothing but these bytes has to be stored.
    """
    return (z0 * (LEVELS / REACH)).round().clamp(-LEVELS, LEVELS) * (REACH / LEVELS)


def likeness(x: Tensor, recon: Tensor, nets: Nets) -> Row:
    """How much `recon`, `[1,3,H,W]`, resembles the original; NaN for nets that are not installed."""
    row = {"psnr": float(metrics.psnr(x, recon)), "ssim": float(metrics.ssim(x, recon))}
    for key, net in (("lpips_alex", nets.lpips_alex), ("lpips_vgg", nets.lpips_vgg)):
        row[key] = torch.nan if net is None else float(net(x, recon))
    return row


def _means(rows: Sequence[Row]) -> Json:
    found: Json = {}
    for key in rows[0]:
        one = bootstrap_mean(np.array([row[key] for row in rows]))
        found[key], found[f"{key}_ci95"] = one.mean, [one.lo, one.hi]
    return found
