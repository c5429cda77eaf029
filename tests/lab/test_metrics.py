"""Metrics of a reconstruction: against hand-computed values, scikit-image and theorems on code length."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.nn import functional

from jeppa.distributions import DiagonalGaussian
from jeppa.lab.metrics import (
    LEVELS_PER_UNIT,
    PSNR_CAP,
    bits_per_dimension,
    delta_e2000,
    dequantise,
    gradient_energy_ratio,
    psnr,
    ssim,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(batch=3, side=24, noise=0.1):
    """Images of low contrast around different means and noisy copies, each with its own noise level."""
    level = torch.linspace(-0.6, 0.3, batch).view(-1, 1, 1, 1)
    x = level + 0.3 * torch.rand(batch, 3, side, side, generator=generator(0))
    scale = noise * torch.arange(1, batch + 1).view(-1, 1, 1, 1)
    return x, (x + scale * torch.randn(x.shape, generator=generator(1))).clamp(-1, 1)


def test_psnr_of_a_tenth_everywhere_is_26_02_db():
    """10 log10(4 / 0.01). Red when data_range is 1 or the logarithm is of the RMSE."""
    x = torch.zeros(2, 3, 4, 4)
    torch.testing.assert_close(psnr(x, x + 0.1), torch.full((2,), 26.0206), atol=1e-3, rtol=0)


def test_psnr_and_ssim_equal_scikit_image_on_each_image():
    """Red when PSNR is of the batch, or SSIM is on [-1,1] or keeps the padded border."""
    x, recon = pair()
    for index in range(3):
        one, other = (t[index].permute(1, 2, 0).double().numpy() for t in (x, recon))
        expected = peak_signal_noise_ratio(one, other, data_range=2.0)
        assert psnr(x, recon)[index].item() == pytest.approx(expected, abs=1e-3)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
        expected = structural_similarity((one + 1) / 2, (other + 1) / 2, data_range=1.0, **options)
        assert ssim(x, recon)[index].item() == pytest.approx(expected, abs=1e-4)


def test_identical_images_give_the_cap_and_one():
    """Red when the cap is removed (infinite)."""
    x, _ = pair()
    assert psnr(x, x).tolist() == [PSNR_CAP] * 3
    torch.testing.assert_close(ssim(x, x), torch.ones(3))


def test_values_outside_the_range_count_as_their_clamped_colour():
    """Red when a clamp of the reconstruction is dropped."""
    x, recon = pair()
    wild = recon * 4
    for metric in (psnr, ssim, delta_e2000, gradient_energy_ratio):
        torch.testing.assert_close(metric(x, wild), metric(x, wild.clamp(-1, 1)))


def test_rounding_to_8_bits_is_not_applied():
    """Half a level of error has a finite PSNR. Red when the reconstruction is rounded."""
    x = torch.zeros(1, 3, 4, 4) + 0.5 / 127.5
    expected = 10 * math.log10(255**2 / 0.4**2)
    assert psnr(x, x + 0.4 / 127.5).item() == pytest.approx(expected, abs=1e-2)


def test_colour_difference_equals_scikit_image_on_each_image():
    """Red when the range is [-1,1], channels are taken for rows, or the batch is pooled."""
    x, recon = pair()
    found = delta_e2000(x, recon)
    for index in range(3):
        one, other = (rgb2lab((t[index].permute(1, 2, 0).double().numpy() + 1) / 2) for t in (x, recon))
        assert found[index].item() == pytest.approx(deltaE_ciede2000(one, other).mean(), rel=1e-3)
    assert delta_e2000(x, x).tolist() == [0.0] * 3


def test_black_and_white_are_100_apart():
    """CIEDE2000 of L* 0 and 100. Red when the white point or the range is wrong."""
    white = torch.ones(1, 3, 4, 4)
    assert delta_e2000(white, -white).item() == pytest.approx(100.0, abs=0.01)


def test_ssim_refuses_images_below_its_window():
    """Red when the check is dropped or is one pixel off."""
    x = torch.rand(1, 3, 11, 10, generator=generator())
    with pytest.raises(ValueError, match="11x10, but SSIM needs at least 11x11"):
        ssim(x, x)
    assert ssim(x.new_zeros(1, 3, 11, 11), x.new_zeros(1, 3, 11, 11)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [psnr, ssim, delta_e2000, gradient_energy_ratio])
def test_pairs_that_would_broadcast_are_refused(metric):
    """Red when check_same_shape is dropped."""
    x, recon = pair()
    with pytest.raises(ValueError, match="give both as one"):
        metric(x, recon[:1])


def test_gradient_energy_of_a_ramp_is_the_ratio_of_slopes():
    """Red when the ratio is inverted, the gradient is squared, or a constant shift counts."""
    ramp = torch.linspace(-0.5, 0.5, 16).expand(1, 3, 16, 16)
    assert gradient_energy_ratio(ramp, 0.25 * ramp + 0.3).item() == pytest.approx(0.25, rel=1e-4)
    assert gradient_energy_ratio(ramp, ramp.mT).item() == pytest.approx(1.0, rel=1e-4)


def test_gradient_energy_is_below_one_for_blur_and_above_for_noise():
    """Red when the ratio is inverted."""
    x, noisy = pair()
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert (gradient_energy_ratio(x, blurred) < 0.7).all()
    assert (gradient_energy_ratio(x, noisy) > 1.0).all()


def test_gradient_energy_of_a_flat_original_is_nan():
    """Red when the guard is dropped (infinite)."""
    x, noisy = pair()
    assert gradient_energy_ratio(torch.zeros_like(x), noisy).isnan().all()


def test_bits_of_a_gaussian_are_its_analytic_entropy_in_grey_levels():
    """1/2 log2(2 pi e sigma^2), sigma = 5 levels. Red when log2(127.5), ln 2 or dims is wrong or dropped."""
    sigma = 5.0
    logvar = torch.tensor(2 * math.log(sigma / LEVELS_PER_UNIT))
    gaussian = DiagonalGaussian(torch.zeros(2, 3, 128, 128), logvar)
    bits = bits_per_dimension(-gaussian.log_prob(gaussian.sample(generator())), 3 * 128 * 128, pixel_scale=True)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * sigma**2)
    torch.testing.assert_close(bits, torch.full((2,), entropy), atol=0.02, rtol=0)


def test_bits_do_not_depend_on_the_scale_that_the_density_is_over():
    """0..255 without the constant equals [-1,1] with it. Red when the constant is not log2(127.5)."""
    x, recon = pair()
    logvar = torch.randn(x.shape, generator=generator(2)) - 4.0
    nats = -DiagonalGaussian(recon, logvar).log_prob(x)
    levels = [(t + 1) * 127.5 for t in (recon, x)]
    nats_of_levels = -DiagonalGaussian(levels[0], logvar + 2 * math.log(127.5)).log_prob(levels[1])
    dims = x[0].numel()
    torch.testing.assert_close(
        bits_per_dimension(nats, dims, pixel_scale=True),
        bits_per_dimension(nats_of_levels, dims, pixel_scale=False),
        atol=1e-4,
        rtol=0,
    )


def test_bits_refuse_no_dimensions():
    """Red when the check is dropped."""
    with pytest.raises(ValueError, match="dims is 0"):
        bits_per_dimension(torch.zeros(1), 0, pixel_scale=False)


def test_dequantised_pixels_fill_exactly_their_own_step():
    """Noise is uniform on [-1/2, 1/2] levels. Red when its width is 2 steps, 1/255, or it is not centred."""
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=generator())
    noise = (dequantise(pixels / 127.5 - 1, generator(1)) + 1) * 127.5 - pixels
    assert noise.min() == pytest.approx(-0.5, abs=1e-3)
    assert noise.max() == pytest.approx(0.5, abs=1e-3)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)
    assert noise.std().item() == pytest.approx(1 / math.sqrt(12), abs=0.005)


def test_bits_of_dequantised_pixels_bound_the_code_length():
    """For each level near a mean, tight for a wide sigma. Red when the noise is narrower than one step."""
    levels = torch.arange(-2, 3).view(5, 1, 1, 1)
    x = (levels / 127.5).expand(5, 3, 100, 100)
    for sigma, slack in ((0.6, 3.0), (20.0, 0.001)):
        logvar = torch.tensor(2 * math.log(sigma / 127.5))
        nats = -DiagonalGaussian(torch.zeros_like(x), logvar).log_prob(dequantise(x, generator()))
        bits = bits_per_dimension(nats, 30_000, pixel_scale=True).numpy()
        centre = levels.flatten().numpy()
        code = -np.log2(norm.cdf(centre + 0.5, scale=sigma) - norm.cdf(centre - 0.5, scale=sigma))
        assert (bits > code - 1e-4).all()
        assert (bits < code + slack).all()


def test_dequantisation_of_an_image_does_not_depend_on_its_batch():
    """Red when the list of generators is not used one for each image."""
    x, _ = pair()
    whole = dequantise(x, [generator(i) for i in range(3)])
    torch.testing.assert_close(whole[2:], dequantise(x[2:], [generator(2)]), atol=0, rtol=0)
    with pytest.raises(ValueError, match="2 generators for 3 images"):
        dequantise(x, [generator(), generator()])
