"""The fitted curve: finds a known one, weighs sets alike, keeps the order, and mends what two numbers cannot."""

import math

import numpy as np
import pytest
import torch

from jeppa.config import VAEConfig
from jeppa.data import open_source
from jeppa.errors import ConfigError, DataError
from jeppa.lab.measure import PixelSample
from jeppa.lab.recalibrate import LEAST_SLOPE, calibrate, fit_recalibration, fit_rising_curve
from jeppa.vae import KNOTS, HeteroscedasticVAE

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = VAEConfig(
    pixel_unshuffle=8, block_out_channels=(16,), layers_per_block=1, norm_num_groups=4, mid_block_attention=False,
    sigma_channels=8, sigma_blocks=0,
)  # fmt: skip


def samples(true, df=None, count=40000, images=4, seed=0):
    """Residuals of log-variance true(logvar)."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(images):
        logvar = rng.uniform(-9.0, -3.0, count)
        noise = rng.normal(size=count) if df is None else rng.standard_t(df, count) * math.sqrt((df - 2) / df)
        made.append(PixelSample(noise**2 * np.exp(true(logvar)), logvar, df))
    return made


def hump(logvar):
    """Too small in the middle, right at the ends: no slope and offset mend it."""
    return logvar + np.maximum(0.0, 1.5 - np.abs(logvar + 6.0))


@pytest.mark.parametrize("df", [None, 5.0])
def test_a_known_curve_is_found(df):
    """Red when a gradient is wrong, a value gets the wrong piece, or the family is another."""
    at, to = fit_rising_curve([samples(hump, df)], 17)
    inner = slice(1, -1)
    np.testing.assert_allclose(to[inner], hump(at)[inner], atol=0.12)


def test_it_mends_what_two_numbers_cannot():
    """Root mean square of the log-variance's error, on values the curve was not fitted on."""
    made, (other,) = samples(hump), samples(hump, images=1, seed=1)
    at, to = fit_rising_curve([made], KNOTS)
    curve = np.sqrt(np.mean((np.interp(other.logvar, at, to) - hump(other.logvar)) ** 2))
    numbers = np.sqrt(np.mean((fit_recalibration(made, -6.0)(other.logvar) - hump(other.logvar)) ** 2))
    assert curve < 0.15 < 0.45 < numbers


def test_a_small_set_weighs_as_much_as_a_large_one():
    """One set has errors of twice sigma, the other ones of half of it, and 20 times the values."""
    small = samples(lambda logvar: logvar + 2 * math.log(2.0), count=2000)
    large = samples(lambda logvar: logvar - 2 * math.log(2.0), count=40000)
    at, to = fit_rising_curve([small, large], 2)
    # The likeliest single variance of both is the mean of the variances, 4 and 1/4.
    np.testing.assert_allclose(to - at, math.log(2.125), atol=0.1)


def test_it_rises_where_the_errors_fall():
    at, to = fit_rising_curve([samples(lambda logvar: -12.0 - logvar)], KNOTS)
    assert (np.diff(to) >= 0.999 * LEAST_SLOPE * np.diff(at)).all()


def test_a_constant_sigma_is_shifted():
    constant = [PixelSample(np.random.default_rng(0).normal(size=20000) ** 2 * 0.04, np.full(20000, -5.0))]
    at, to = fit_rising_curve([constant], KNOTS)
    assert np.interp(-5.0, at, to) == pytest.approx(math.log(0.04), abs=0.05)


def test_calibrating_again_does_not_add_up():
    """Red when the second fit sees the sigma that the first one changed."""
    torch.manual_seed(0)
    vae = HeteroscedasticVAE(TINY).eval()
    photos = open_source("builtin:photos", "heldout")
    first = calibrate(vae, [(photos, 64)])
    assert vae.sigma_head is not None
    curve = vae.sigma_head.curve.values.clone()
    assert calibrate(vae, [(photos, 64)]) == first
    assert torch.equal(vae.sigma_head.curve.values, curve)
    assert first != 1.0


def test_nothing_to_fit_is_refused():
    photos = open_source("builtin:photos", "heldout")
    with pytest.raises(ConfigError, match="shared"):
        calibrate(HeteroscedasticVAE(TINY, "shared"), [(photos, 64)])
    with pytest.raises(DataError, match="no image"):
        calibrate(HeteroscedasticVAE(TINY), [])
