"""Correct the size of a predicted sigma afterwards: by a slope and an offset, or by a rising curve.

Slope and offset, logvar -> reference + offset + slope * (logvar - reference), serve evaluation: they tell how much of
a miscalibration two numbers can correct. They are fitted by likelihood on half of the images (those of even or odd
index) and judged on the other half, so that a gain is not one of fitting. Compare Laves et al., arXiv 2006.13092 (one
factor), and Kuleshov et al., arXiv 1807.00263.

The curve maps the predicted log-variance to the right one and becomes part of the sigma head (`jeppa calibrate`). Two
numbers cannot correct a sigma that is too small in the middle of its range and too large at both ends, as ours is on
photographs (`results/calibration.md`). Source of the idea: isotonic recalibration, Kuleshov et al., arXiv 1807.00263.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import ndtri, stdtrit

from jeppa.data import ImageSource, evaluation_images
from jeppa.errors import ConfigError, DataError
from jeppa.lab.measure import PixelSample, fit_to_grid, pick_values
from jeppa.lab.metrics import dequantise
from jeppa.vae import KNOTS, HeteroscedasticVAE

Array = NDArray[np.float64]
LEAST_VALUES, MOST_VALUES = 64, 4096
"""Values kept of each image for slope and offset."""
TOTAL_VALUES = 1_000_000


@dataclass(frozen=True)
class Recalibration:
    """logvar -> reference + offset + slope * (logvar - reference); slope 1 and offset 0 change nothing."""

    reference: float
    offset: float
    slope: float

    def __call__(self, logvar: Array) -> Array:
        """Recalibrated log-variance, shape of `logvar`."""
        return self.reference + self.offset + self.slope * (logvar - self.reference)


def values_per_image(images: int, most: int = MOST_VALUES) -> int:
    """How many values of each image to keep: at most `most`, and so few that all `images` fit in memory (16 MB)."""
    return min(most, max(LEAST_VALUES, TOTAL_VALUES // max(1, images)))


def fit_recalibration(samples: list[PixelSample], reference: float) -> Recalibration:
    """Find the slope and offset of the greatest likelihood over all values.

    Where the log-variance is constant, any slope fits; the slope then stays 1 if that constant is the reference.

    Args:
        samples: at least one, all of one family.
        reference: log-variance that the slope leaves as it is, for example the mean of all.
    """
    squared = np.concatenate([sample.squared for sample in samples])
    centred = np.concatenate([sample.logvar for sample in samples]) - reference
    dfs = np.concatenate([np.full(len(sample.squared), sample.df or np.inf) for sample in samples])

    def loss(parameters: Array) -> tuple[float, Array]:
        logvar = reference + parameters[0] + parameters[1] * centred
        nll, slope = negative_log_density(squared, logvar, dfs)
        return float(nll.mean()), np.array([slope.mean(), (slope * centred).mean()])

    fitted = minimize(loss, np.array([0.0, 1.0]), jac=True, method="BFGS")
    offset, slope = (float(value) for value in fitted.x)
    return Recalibration(reference, offset, slope)


def cross_fit(samples: list[PixelSample]) -> tuple[Recalibration, Recalibration]:
    """Fit recalibrations for the images of even and of odd index, each on the images of the other half.

    Raises:
        ValueError: if there are fewer than two images.
    """
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} image cannot be split in two: recalibration needs at least 2 images")
    reference = float(np.mean([sample.logvar.mean() for sample in samples]))
    return fit_recalibration(samples[1::2], reference), fit_recalibration(samples[::2], reference)


def share_inside(sample: PixelSample, recalibration: Recalibration, level: float) -> float:
    """`jeppa.lab.calibration.coverage` of a sample after recalibration, 0 to 1."""
    upper = 0.5 + level / 2.0
    quantile = ndtri(upper) if sample.df is None else stdtrit(sample.df, upper) * np.sqrt(1.0 - 2.0 / sample.df)
    return float((sample.squared <= quantile**2 * np.exp(recalibration(sample.logvar))).mean())


def negative_log_density(squared: Array, logvar: Array, df: Array) -> tuple[Array, Array]:
    """Negative log-likelihood up to a constant, and its derivative by logvar, elementwise.

    Gaussian (infinite df): [l + r^2 e^-l] / 2. Student-t of variance e^l: [l + (n + 1) log(1 + r^2 e^-l / (n-2))] / 2.
    """
    relative = squared * np.exp(-logvar)
    if np.isinf(df).all():
        return 0.5 * (logvar + relative), 0.5 * (1.0 - relative)
    nll = 0.5 * (logvar + (df + 1.0) * np.log1p(relative / (df - 2.0)))
    slope = 0.5 * (1.0 - (df + 1.0) * relative / (df - 2.0 + relative))
    return nll, slope


OUTERMOST = 0.02
"""Share of the values that lie below the first knot, and of those above the last one."""
LEAST_GAP = 1e-3
"""Least distance between two knots, in nats."""
LEAST_SLOPE = 0.05
"""Least slope of the curve; above 0, so that pixels of different sigma keep different sigmas."""


def fit_rising_curve(sets: Sequence[Sequence[PixelSample]], knots: int) -> tuple[Array, Array]:
    """Find the curve of the greatest likelihood: predicted and right log-variance at its knots, `[knots]` each.

    Equal shares of the values lie between neighbouring knots. The slope is at least `LEAST_SLOPE`.

    Args:
        sets: samples of each set of images; all sets weigh the same, whatever their size.
        knots: how many, at least 2; 1 would be a mere offset.
    """
    squared = np.concatenate([sample.squared for samples in sets for sample in samples])
    logvar = np.concatenate([sample.logvar for samples in sets for sample in samples])
    df = np.concatenate([np.full(len(sample.squared), sample.df or np.inf) for samples in sets for sample in samples])
    sizes = [sum(len(sample.squared) for sample in samples) for samples in sets]
    weight = np.concatenate([np.full(size, 1.0 / (size * len(sizes))) for size in sizes])

    at = _make_rising(_quantiles(logvar, weight, np.linspace(OUTERMOST, 1.0 - OUTERMOST, knots)))
    piece = np.clip(np.searchsorted(at, logvar) - 1, 0, knots - 2)
    share = np.clip((logvar - at[piece]) / (at[piece + 1] - at[piece]), 0.0, 1.0)
    beyond = logvar - np.clip(logvar, at[0], at[-1])

    def loss(rises: Array) -> tuple[float, Array]:
        to = np.cumsum(rises)
        nll, slope = negative_log_density(squared, (1.0 - share) * to[piece] + share * to[piece + 1] + beyond, df)
        slope *= weight
        by_knot = np.bincount(piece, slope * (1.0 - share), knots) + np.bincount(piece + 1, slope * share, knots)
        return float((nll * weight).sum()), by_knot[::-1].cumsum()[::-1]

    bounds = [(None, None), *((LEAST_SLOPE * gap, None) for gap in np.diff(at))]
    fitted = minimize(loss, np.diff(at, prepend=0.0), jac=True, method="L-BFGS-B", bounds=bounds)
    return at, np.cumsum(fitted.x)


def _quantiles(values: Array, weight: Array, shares: Array) -> Array:
    order = np.argsort(values)
    reached = np.cumsum(weight[order])
    result: Array = np.interp(shares, reached / reached[-1], values[order])
    return result


def _make_rising(at: Array) -> Array:
    """Move knots that are equal or too close apart to `LEAST_GAP`."""
    ramp = LEAST_GAP * np.arange(len(at))
    result: Array = np.maximum.accumulate(at - ramp) + ramp
    return result


CURVE_VALUES = 65536
"""Values kept of each image for the curve, which needs more of them than slope and offset do."""
Sized = tuple[ImageSource, int | None]
"""Images, and the side to which the centred square of each is resized; None for whole images."""


@torch.no_grad()
def calibrate(vae: HeteroscedasticVAE, sets: Sequence[Sized]) -> float:
    """Fit the curve under which the errors on `sets` are most likely, and put it into the sigma head.

    An earlier curve is replaced. Reconstructions stay as they are, and so does the order of pixels by sigma.

    Args:
        vae: a model with a sigma head, which is changed.
        sets: images of the kind and size that the model will be used on. It should not have been trained on them, nor
            should it be judged by them later. All sets weigh the same.

    Returns:
        The median of the factors by which the curve changes sigma at its knots.

    Raises:
        ConfigError: the model has one sigma for all pixels.
        DataError: a set is empty, or there is none.
    """
    if vae.sigma_head is None:
        raise ConfigError(f"likelihood {vae.likelihood!r} has one sigma for all pixels; train one with a sigma head")
    if not sets or not all(len(source) for source, _ in sets):
        raise DataError("the source has no image to calibrate on; pass one with images")
    curve = vae.sigma_head.curve
    curve.straighten()
    at, to = fit_rising_curve([collect_samples(vae, *sized) for sized in sets], KNOTS)
    curve.bend(torch.from_numpy(at), torch.from_numpy(to))
    return float((0.5 * (curve.values - curve.knots)).exp().median())


def collect_samples(
    vae: HeteroscedasticVAE, source: ImageSource, resolution: int | None, most: int = CURVE_VALUES
) -> list[PixelSample]:
    """Errors of the reconstruction and predicted log-variances, some of each image.

    Args:
        vae: a model with a sigma head.
        source: the images.
        resolution: side to which the centred square of each is resized; None for whole images.
        most: values kept of an image where there are few images.
    """
    assert vae.sigma_head is not None
    degrees = float(vae.sigma_head.degrees) if vae.sigma_head.config.tails else None
    values = values_per_image(len(source), most)
    samples = []
    for index, (_, x) in enumerate(evaluation_images(source, resolution)):
        generator = torch.Generator().manual_seed(index)
        x = fit_to_grid(x[None], vae.settings.multiple)
        decoded = vae.decode(vae.encode(x).mean)
        residual = decoded.element_residual(dequantise(x, generator))
        samples.append(pick_values(residual, decoded.element_logvar, degrees, values, generator))
    return samples
