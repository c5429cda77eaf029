"""Two numbers in a sigma head, fitted on held-out images, so that its sigma has the right size.

`evaluate/recalibrate.py` says how much that is worth on images that the numbers were not fitted on.
"""

import torch

from jeppa.data import ImageSource, evaluation_images
from jeppa.errors import ConfigError, DataError
from jeppa.evaluate.measure import fit_to_grid
from jeppa.evaluate.metrics import dequantise
from jeppa.evaluate.recalibrate import Recalibration, Sample, fit, values_per_image
from jeppa.vae import HeteroscedasticVAE


@torch.no_grad()
def calibrate(vae: HeteroscedasticVAE, source: ImageSource, resolution: int | None = None) -> Recalibration:
    """Fit slope and offset of the log-variance to the images of `source` and put them into the sigma head.

    Args:
        vae: with a sigma head; its head is changed, its reconstructions are not.
        source: images that it was not trained on; what it is judged by later should be others again.
        resolution: side of the centred square of each image, or None for whole images.

    Raises:
        ConfigError: the model has one sigma for all pixels.
        DataError: the source is empty.
    """
    if vae.sigma_head is None:
        raise ConfigError(f"likelihood {vae.likelihood!r} has one sigma for all pixels; train one with a sigma head")
    if not len(source):
        raise DataError("the source has no image to calibrate on; pass one with images")
    values = values_per_image(len(source))
    samples = []
    for index, (_, x) in enumerate(evaluation_images(source, resolution)):
        generator = torch.Generator().manual_seed(index)
        x = fit_to_grid(x[None])
        decoded = vae.decode(vae.encode(x).mean)
        residual = decoded.element_residual(dequantise(x, generator)).flatten()
        chosen = torch.randperm(residual.numel(), generator=generator)[:values]
        degrees = vae.sigma_head.degrees if vae.sigma_head.config.tails else None
        samples.append(
            Sample(
                residual[chosen].double().square().numpy(),
                decoded.element_logvar.flatten()[chosen].double().numpy(),
                None if degrees is None else float(degrees),
            )
        )
    found = fit(samples, float(vae.shared_logvar))
    vae.sigma_head.recalibrate(found.slope, found.offset)
    return found
