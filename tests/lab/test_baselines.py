"""Baselines that a learned sigma must beat: scaled by the true error, with edges where scikit-image has them."""

import pytest
import torch
from skimage.filters import sobel

from jeppa.lab.calibration import VARIANCE_FLOOR, block_spearman, chi2, constant_logvar, mean_square_error, sobel_logvar

pytestmark = pytest.mark.usefixtures("one_thread")


def pair():
    """Noisy images whose second has three times the error."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(2, 3, 96, 96, generator=generator) - 0.5
    scale = torch.tensor([0.05, 0.15]).view(2, 1, 1, 1)
    return mean + scale * torch.randn(mean.shape, generator=generator), mean


def test_baselines_have_the_mean_variance_of_the_error():
    """Red when the scale is the standard deviation, or is of the batch and not of the image."""
    x, mean = pair()
    error = mean_square_error(x, mean)
    torch.testing.assert_close(error, (x - mean).square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(chi2(x, mean, constant_logvar(x, mean)), torch.ones(2))
    torch.testing.assert_close(sobel_logvar(mean, error).exp().mean(dim=(1, 2, 3)), error)


def test_sobel_sigma_is_proportional_to_the_gradient_of_scikit_image():
    """Contrast is so low that the floor counts. Red when a kernel or its scale is wrong, or zeros are padded."""
    grey = 0.5 + 0.02 * torch.rand(2, 1, 20, 30, generator=torch.Generator().manual_seed(0))
    logvar = sobel_logvar(grey.expand(2, 3, 20, 30), torch.full((2,), 0.01))
    for one, image in zip(logvar[:, 0], grey[:, 0], strict=True):
        # scikit-image takes the root of the mean over the two axes of weights that sum to 1 over two pixels
        energy = 0.5 * torch.from_numpy(sobel(image.double().numpy())).square() + VARIANCE_FLOOR
        torch.testing.assert_close(one.exp(), (0.01 * energy / energy.mean()).float(), atol=1e-6, rtol=1e-3)


def test_sobel_baselines_stay_finite_on_flat_and_exact_images():
    """Red when a floor is dropped (log 0)."""
    flat = torch.zeros(1, 3, 16, 16)
    torch.testing.assert_close(sobel_logvar(flat, torch.tensor([0.04])).exp(), torch.full((1, 1, 16, 16), 0.04))
    assert sobel_logvar(flat, torch.zeros(1)).isfinite().all()
    assert constant_logvar(flat, flat).isfinite().all()


def test_sobel_ranks_errors_that_live_on_edges():
    """Red when the map is inverted, or shifted against the image."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.0, 1.0, 96).square()  # the gradient, and so the sigma, grows to the right
    mean = ramp.expand(1, 3, 96, 96)
    x = mean + 0.1 * ramp * torch.randn(mean.shape, generator=generator)
    assert block_spearman(x, mean, sobel_logvar(mean, mean_square_error(x, mean))).item() > 0.9
