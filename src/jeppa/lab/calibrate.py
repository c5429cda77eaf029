"""A curve in a sigma head, fitted on images that it was not trained on, so that its sigma has the right size."""

from collections.abc import Sequence

import torch

from jeppa.data import ImageSource, evaluation_images
from jeppa.errors import ConfigError, DataError
from jeppa.lab.measure import fit_to_grid, some_values
from jeppa.lab.metrics import dequantise
from jeppa.lab.recalibrate import Sample, fit_rising, values_per_image
from jeppa.vae import KNOTS, HeteroscedasticVAE

MOST_VALUES = 65536
"""Of an image: a curve needs more of few images than two numbers do."""
Sized = tuple[ImageSource, int | None]
"""Images, and the side of the centred square of each, or None for whole images."""


@torch.no_grad()
def calibrate(vae: HeteroscedasticVAE, sets: Sequence[Sized]) -> float:
    """Put the curve into the sigma head that makes the errors on `sets` likeliest, in place of what was there.

    Reconstructions, and which pixel is less sure than which, stay as they are.

    Args:
        vae: with a sigma head, which is changed.
        sets: images of the kind that it will be used on, at the size that they will have; it should not have been
            trained on them, and what it is judged by later should be others again. All sets weigh the same.

    Returns:
        The middle one of the factors by which the curve changes sigma.

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
    at, to = fit_rising([_samples(vae, *one) for one in sets], KNOTS)
    curve.bend(torch.from_numpy(at), torch.from_numpy(to))
    return float((0.5 * (curve.values - curve.knots)).exp().median())


def _samples(vae: HeteroscedasticVAE, source: ImageSource, resolution: int | None) -> list[Sample]:
    assert vae.sigma_head is not None
    degrees = float(vae.sigma_head.degrees) if vae.sigma_head.config.tails else None
    values = values_per_image(len(source), MOST_VALUES)
    samples = []
    for index, (_, x) in enumerate(evaluation_images(source, resolution)):
        generator = torch.Generator().manual_seed(index)
        x = fit_to_grid(x[None])
        decoded = vae.decode(vae.encode(x).mean)
        residual = decoded.element_residual(dequantise(x, generator))
        samples.append(some_values(residual, decoded.element_logvar, degrees, values, generator))
    return samples
