"""Evaluate a VAE on images: every figure is a mean over images with a bootstrap interval."""

import json
import math
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jeppa.data import ImageSource, evaluation_images
from jeppa.evaluate import calibration, metrics
from jeppa.evaluate.bootstrap import bootstrap_mean
from jeppa.gaussian import DiagonalGaussian
from jeppa.vae import HeteroscedasticVAE, pad_to_multiple

NOT_YET = "not measured by this version"
UNMEASURED = (
    "delta_e2000", "lpips_alex", "lpips_vgg", "fd_efficientnet_lite0", "fd_floor", "ence", "crps", "ause", "ause_sobel",
)  # fmt: skip
PLOT_VALUES = 20_000

Row = dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """`metrics` has the keys of metrics.json; `predicted` and `observed` are the reliability curve in 8-bit levels."""

    metrics: dict[str, Any]
    predicted: list[float]
    observed: list[float]


def evaluate(vae: HeteroscedasticVAE, source: ImageSource, resolution: int | None, model: str) -> Evaluation:
    """Measure `vae` on every image of `source`.

    Args:
        vae: in evaluation mode.
        source: the images; held-out ones, or the figures say nothing.
        resolution: side of the centred square that is resized and measured, or None for whole images.
        model: name or path of the model, recorded as it is.
    """
    began = time.perf_counter()
    rows: list[Row] = []
    sampled: list[tuple[Tensor, Tensor, Tensor]] = []
    for index, (_, x) in enumerate(evaluation_images(source, resolution)):
        row, decoded = measure_image(vae, x[None], index)
        rows.append(row)
        sampled.append(_some_values(x[None], decoded, index))
    x, mean, logvar = (torch.cat(part, dim=-1) for part in zip(*sampled, strict=True))
    curve = calibration.reliability(x, mean, logvar)
    about = {
        "n_images": len(rows),
        "resolution": resolution,
        "data_fingerprint": source.fingerprint,
        "model": model,
        "commit": commit(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 2),
    }
    return Evaluation({**summarise(rows), **about}, curve.sigma.tolist(), curve.error.tolist())


@torch.no_grad()
def measure_image(vae: HeteroscedasticVAE, x: Tensor, index: int) -> tuple[Row, DiagonalGaussian]:
    """All figures of one image `[1,3,H,W]`, and its reconstruction from the latent mean.

    Likelihood and calibration are measured on dequantised pixels. The bound samples z from the posterior; all
    else uses its mean. `index` seeds both draws, so a figure does not depend on the other images.
    """
    generator = torch.Generator().manual_seed(index)
    height, width = x.shape[2:]
    posterior = vae.encode(pad_to_multiple(x))
    whole = vae.decode(posterior.mean)
    decoded = DiagonalGaussian(whole.mean[..., :height, :width], whole.logvar[..., :height, :width])
    pixels = metrics.dequantise(x, generator)
    drawn = vae.decode(posterior.sample(generator))
    nats = -DiagonalGaussian(drawn.mean[..., :height, :width], drawn.logvar[..., :height, :width]).log_prob(pixels)
    distortion = float(metrics.bits_per_dimension(nats, x.numel(), pixel_scale=True))
    rate = float(metrics.bits_per_dimension(posterior.kl(), x.numel(), pixel_scale=False))
    error = calibration.mean_square_error(pixels, decoded.mean)
    sobel = calibration.sobel_logvar(decoded.mean, error)
    row = {
        "psnr": float(metrics.psnr(x, decoded.mean)),
        "ssim": float(metrics.ssim(x, decoded.mean)) if min(height, width) >= metrics.SSIM_WINDOW else math.nan,
        "gradient_energy_ratio": float(metrics.gradient_energy_ratio(x, decoded.mean)),
        "distortion_bpd": distortion,
        "rate_bpd": rate,
        "elbo_bpd": distortion + rate,
        "chi2": float(calibration.chi2(pixels, decoded.mean, decoded.logvar)),
        "sigma_error_spearman": _block_spearman(pixels, decoded.mean, decoded.logvar),
        "sigma_error_spearman_sobel": _block_spearman(pixels, decoded.mean, sobel),
        "sigma_levels": float(decoded.var.mean().sqrt()) * metrics.LEVELS_PER_UNIT,
    }
    for level in calibration.COVERAGE_LEVELS:
        row[f"coverage_{round(100 * level)}"] = float(calibration.coverage(pixels, decoded.mean, decoded.logvar, level))
    return row, decoded


def summarise(rows: list[Row]) -> dict[str, Any]:
    """Means over images with `<key>_ci95`; what has no value is null and explained under `reasons`."""
    summary: dict[str, Any] = {}
    reasons = dict.fromkeys(UNMEASURED, NOT_YET)
    for key in rows[0]:
        estimate = bootstrap_mean(np.array([row[key] for row in rows]))
        if estimate.count == 0:
            reasons[key] = "a rank needs two different values" if "spearman" in key else "the images are too small"
        summary[key] = _number(estimate.mean)
        summary[f"{key}_ci95"] = [_number(estimate.lo), _number(estimate.hi)]
    for key in UNMEASURED:
        summary[key] = None
    return {**summary, "reasons": reasons}


def write_metrics(evaluation: Evaluation, path: Path) -> None:
    """Write metrics.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(evaluation.metrics, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def commit() -> str | None:
    """The commit of the source tree that runs, or None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    names = ("jeppa", "torch", "diffusers", "numpy", "torchmetrics")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _block_spearman(x: Tensor, mean: Tensor, logvar: Tensor) -> float:
    block = 8 if min(x.shape[2:]) >= 8 else 1
    return float(calibration.block_spearman(x, mean, logvar, block))


def _some_values(x: Tensor, decoded: DiagonalGaussian, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """An even share of an image's values for the pooled reliability curve, each `[1,1,1,N]`."""
    generator = torch.Generator().manual_seed(index)
    chosen = torch.randperm(x.numel(), generator=generator)[:PLOT_VALUES]
    parts: Iterable[Tensor] = (x, decoded.mean, decoded.logvar)
    x_part, mean_part, logvar_part = (part.reshape(-1)[chosen].view(1, 1, 1, -1) for part in parts)
    return x_part, mean_part, logvar_part


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")
