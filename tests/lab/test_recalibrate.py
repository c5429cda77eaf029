"""Recalibration: recovers a known slope and offset, from other images only."""

import math

import numpy as np
import pytest

from jeppa.lab.measure import PixelSample
from jeppa.lab.recalibrate import (
    Recalibration,
    cross_fit,
    fit_recalibration,
    share_inside,
    values_per_image,
)

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = -6.0


def samples(offset=0.0, slope=1.0, df=None, images=6, seed=0):
    """Residuals whose true log-variance is REFERENCE + offset + slope * (logvar - REFERENCE)."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(images):
        logvar = rng.uniform(-9.0, -3.0, 4000)
        noise = rng.normal(size=4000) if df is None else rng.standard_t(df, 4000) * math.sqrt((df - 2) / df)
        variance = np.exp(REFERENCE + offset + slope * (logvar - REFERENCE))
        made.append(PixelSample(noise**2 * variance, logvar, df))
    return made


@pytest.mark.parametrize("df", [None, 4.0])
@pytest.mark.parametrize(("offset", "slope"), [(0.0, 1.0), (1.2, 0.5), (-0.8, 1.5)])
def test_a_known_slope_and_offset_are_recovered(offset, slope, df):
    """Red when a gradient is wrong, the family is another, or the slope is not around the reference."""
    found = fit_recalibration(samples(offset, slope, df), REFERENCE)
    assert (found.offset, found.slope) == (pytest.approx(offset, abs=0.05), pytest.approx(slope, abs=0.03))


@pytest.mark.parametrize("df", [None, 4.0])
def test_coverage_is_right_after_recalibration_and_not_before(df):
    """Red when the quantile ignores `df`, or the recalibration is not applied."""
    made = samples(offset=1.0, slope=0.6, df=df)
    folds = cross_fit(made)
    before = np.mean([share_inside(one, Recalibration(REFERENCE, 0.0, 1.0), 0.9) for one in made])
    after = np.mean([share_inside(one, folds[i % 2], 0.9) for i, one in enumerate(made)])
    assert after == pytest.approx(0.9, abs=0.01)
    assert abs(before - 0.9) > 0.05


def test_each_image_is_judged_by_a_fit_on_the_others():
    """Even images have twice the sigma of odd ones. Red when the folds are exchanged or pooled."""
    even, odd = samples(offset=2 * math.log(2.0)), samples(seed=1)
    mixed = [one for pair in zip(even, odd, strict=True) for one in pair]
    for_even, for_odd = cross_fit(mixed)
    assert for_even.offset == pytest.approx(0.0, abs=0.05)
    assert for_odd.offset == pytest.approx(2 * math.log(2.0), abs=0.05)


def test_a_constant_sigma_is_shifted_and_keeps_its_slope():
    """Red when the fit diverges along the undefined slope."""
    rng = np.random.default_rng(0)
    made = [PixelSample(rng.normal(size=4000) ** 2 * 0.04, np.full(4000, -2.0)) for _ in range(2)]
    for fold in cross_fit(made):
        assert fold.slope == pytest.approx(1.0)
        assert fold.reference + fold.offset == pytest.approx(math.log(0.04), abs=0.1)


def test_one_image_is_refused():
    """Red when an image is judged by a fit on itself."""
    with pytest.raises(ValueError, match="at least 2 images"):
        cross_fit(samples(images=1))


def test_samples_of_many_images_stay_bounded():
    """Red when the number of values does not fall with the number of images."""
    assert values_per_image(1) == 4096
    assert values_per_image(1000) * 1000 <= 1_000_000
    assert values_per_image(10**9) == 64
