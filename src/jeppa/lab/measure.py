"""Measure one image: likeness of the reconstruction, code length, and whether sigma predicts the error."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jeppa.config import CELL
from jeppa.data import to_pixels
from jeppa.data.images import LEVELS_PER_UNIT
from jeppa.distributions import DiagonalGaussian, Predictive
from jeppa.errors import CheckpointError, DataError
from jeppa.lab import calibration, metrics
from jeppa.lab.calibration import mean_square_error, sobel_logvar
from jeppa.lab.metrics import FeatureNet, lossless_bpd
from jeppa.lab.plainness import border_error_ratio
from jeppa.lab.statistics import Histogram, histogram
from jeppa.lpips import Lpips
from jeppa.vae import HeteroscedasticVAE, pad_to_multiple

BLOCK = 8
Row = dict[str, float]
"""Figures of one image by their key in metrics.json; NaN where the image has none."""


@dataclass(frozen=True)
class PixelSample:
    """Randomly chosen values of one image, to which a recalibration is fitted.

    Args:
        squared: squared residuals, `[K]`, in squared units of x.
        logvar: predicted log-variance of each, `[K]`.
        df: None for Gaussian marginals, else degrees of freedom, see `jeppa.lab.calibration`.
    """

    squared: NDArray[np.float64]
    logvar: NDArray[np.float64]
    df: float | None = None


@dataclass(frozen=True)
class Nets:
    """Pretrained nets of the perceptual metrics; a metric whose net is None is not measured."""

    lpips_alex: Lpips | None = None
    lpips_vgg: Lpips | None = None
    features: FeatureNet | None = None


@dataclass(frozen=True)
class Measurement:
    """What is kept of an image that was measured.

    Args:
        row: its figures.
        by_sigma: histogram over the predicted log-variance.
        by_sobel: histogram over the log-variance of the Sobel baseline, which is its prediction too.
        logvar_ends: least and greatest predicted log-variance.
        sample: values for recalibration.
        pit: shares of the probability integral transform, `[20]`.
        sparsification: curves `[3,steps]` by sigma, by Sobel and by the true error.
        features: of the original and the reconstruction, `[2,FEATURES]`, or None.
    """

    row: Row
    by_sigma: Histogram
    by_sobel: Histogram
    logvar_ends: tuple[float, float]
    sample: PixelSample
    pit: Tensor
    sparsification: Tensor
    features: Tensor | None


@dataclass(frozen=True)
class PixelPrediction:
    """Dequantised pixels and the marginals predicted for them, all `[1,3,H,W]`; `drawn` is an image drawn from them."""

    pixels: Tensor
    mean: Tensor
    logvar: Tensor
    sobel: Tensor
    drawn: Tensor
    df: float | None


@torch.no_grad()
def measure_image(
    vae: HeteroscedasticVAE, x: Tensor, index: int, nets: Nets, values: int, name: str = "image"
) -> Measurement:
    """Measure everything about one image.

    Likelihood and calibration are measured on dequantised pixels. The code length samples z from the posterior;
    everything else uses its mean. `index` seeds all draws, so that figures do not depend on other images.

    Args:
        vae: in evaluation mode.
        x: `[1,3,H,W]` in [-1,1]; cut to multiples of 8 by `fit_to_grid`.
        index: of the image in its source.
        nets: of the perceptual metrics.
        values: how many values to keep for recalibration.
        name: of the image, for errors.

    Raises:
        DataError: if the image has NaN.
        CheckpointError: if the prediction of the model has NaN.
    """
    if not x.isfinite().all():
        raise DataError(f"{name!r}: has a pixel that is not a finite number; delete or replace the image")
    x = fit_to_grid(x, vae.settings.multiple)
    generator = torch.Generator().manual_seed(index)
    pixels = metrics.dequantise(x, generator)
    posterior = vae.encode(x)
    decoded = vae.decode(posterior.mean)
    code = _measure_code_length(pixels, posterior, vae.decode(posterior.sample(generator)))
    prediction = _predict(pixels, decoded, generator)
    _check_finite(name, prediction, code["elbo_bpd"])
    curves = _trace_sparsification(prediction)
    if vae.deterministic:
        code |= {"rate_bpd": math.nan, "elbo_bpd": math.nan}
    row = {
        **_measure_likeness(x, prediction.mean, nets),
        **code,
        **lossless_bpd(to_pixels(x[0])),
        **_judge_sigma(prediction),
        "gradient_energy_ratio_draw": float(metrics.gradient_energy_ratio(x, prediction.drawn)),
        "ause": float((curves[0] - curves[2]).mean()),
        "ause_sobel": float((curves[1] - curves[2]).mean()),
    }
    features = None if nets.features is None else nets.features(torch.cat([x, prediction.mean]))
    residual = prediction.pixels - prediction.mean
    sample = pick_values(residual, prediction.logvar, prediction.df, values, generator)
    return _make_measurement(row, prediction, curves, features, sample)


def fit_to_grid(x: Tensor, multiple: int = CELL) -> Tensor:
    """The centred part of `[B,3,H,W]` whose sides are multiples of `multiple`; a shorter side is extended instead."""
    for dim in (2, 3):
        side = x.shape[dim]
        kept = side - side % multiple if side >= multiple else side
        x = x.narrow(dim, (side - kept) // 2, kept)
    return pad_to_multiple(x, multiple)


def _check_finite(name: str, prediction: PixelPrediction, bits: float) -> None:
    if prediction.mean.isfinite().all() and prediction.logvar.isfinite().all() and math.isfinite(bits):
        return
    raise CheckpointError(
        f"{name!r}: the model's prediction has values that are not finite numbers; use an earlier checkpoint"
    )


def _predict(pixels: Tensor, decoded: Predictive, generator: torch.Generator) -> PixelPrediction:
    mean, logvar = decoded.mean, decoded.logvar.expand_as(decoded.mean)
    sobel = sobel_logvar(mean, mean_square_error(pixels, mean)).expand_as(mean)
    return PixelPrediction(pixels, mean, logvar, sobel, decoded.sample(generator), decoded.df)


def _measure_code_length(pixels: Tensor, posterior: DiagonalGaussian, decoded: Predictive) -> Row:
    """Rate, distortion and their sum in bits per dimension; `decoded` comes from a draw of the posterior."""
    dims = pixels.numel()
    distortion = float(metrics.bits_per_dimension(-decoded.log_prob(pixels), dims, pixel_scale=True))
    rate = float(metrics.bits_per_dimension(posterior.kl(), dims, pixel_scale=False))
    return {"distortion_bpd": distortion, "rate_bpd": rate, "elbo_bpd": distortion + rate}


def _measure_likeness(x: Tensor, recon: Tensor, nets: Nets) -> Row:
    """Likeness of a reconstruction to the original, which is not dequantised."""
    row = {
        "psnr": float(metrics.psnr(x, recon)),
        "ssim": float(metrics.ssim(x, recon)) if min(x.shape[2:]) >= metrics.SSIM_WINDOW else math.nan,
        "delta_e2000": float(metrics.delta_e2000(x, recon)),
        "gradient_energy_ratio": float(metrics.gradient_energy_ratio(x, recon)),
        "border_error_ratio": float(border_error_ratio(x, recon)),
    }
    for key, net in (("lpips_alex", nets.lpips_alex), ("lpips_vgg", nets.lpips_vgg)):
        row[key] = math.nan if net is None else float(net(x, recon))
    return row


def _judge_sigma(prediction: PixelPrediction) -> Row:
    """Whether sigma is as large as the error, and large where the error is."""
    values, df = (prediction.pixels, prediction.mean, prediction.logvar), prediction.df
    row = {
        "chi2": float(calibration.chi2(*values)),
        "crps": float(calibration.crps(*values, df)),
        "sigma_error_spearman": float(calibration.block_spearman(*values, BLOCK)),
        "sigma_error_spearman_sobel": float(calibration.block_spearman(*values[:2], prediction.sobel, BLOCK)),
        "sigma_levels": float(prediction.logvar.exp().mean().sqrt()) * LEVELS_PER_UNIT,
    }
    for level in calibration.COVERAGE_LEVELS:
        row[f"coverage_{round(100 * level)}"] = float(calibration.coverage(*values, level, df))
    return row


def _trace_sparsification(prediction: PixelPrediction) -> Tensor:
    pixels, mean = prediction.pixels, prediction.mean
    curves = [calibration.sparsification(pixels, mean, logvar) for logvar in (prediction.logvar, prediction.sobel)]
    return torch.cat([*curves, calibration.oracle_sparsification(pixels, mean)])


def pick_values(
    residual: Tensor, logvar: Tensor, df: float | None, values: int, generator: torch.Generator
) -> PixelSample:
    """Pick `values` random elements of an image, each at most once; `residual` and `logvar` have one shape."""
    chosen = torch.randperm(residual.numel(), generator=generator)[:values]
    squared = residual.flatten()[chosen].double().square().numpy()
    return PixelSample(squared, logvar.flatten()[chosen].double().numpy(), df)


def _make_measurement(
    row: Row, prediction: PixelPrediction, curves: Tensor, features: Tensor | None, sample: PixelSample
) -> Measurement:
    squared = (prediction.pixels - prediction.mean).square()
    drawn = (prediction.drawn - prediction.mean).square()
    logvar, sobel = prediction.logvar, prediction.sobel
    return Measurement(
        row=row,
        by_sigma=histogram(logvar, logvar, squared, drawn),
        by_sobel=histogram(sobel, sobel, squared, drawn),
        logvar_ends=(float(logvar.min()), float(logvar.max())),
        sample=sample,
        pit=calibration.pit(prediction.pixels, prediction.mean, logvar, prediction.df)[0],
        sparsification=curves,
        features=features,
    )
