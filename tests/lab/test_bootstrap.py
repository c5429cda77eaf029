"""The bootstrap interval: covers the truth, repeats, and is honest about missing values."""

import math

import numpy as np
import pytest

from jeppa.lab.statistics import bootstrap_mean

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_interval_covers_the_true_mean_about_95_percent_of_the_time():
    """1000 samples of 100 values. Red when the level is 90 or 99 %."""
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(1000):
        estimate = bootstrap_mean(rng.normal(3.0, 2.0, 100), seed=seed, resamples=400)
        inside += estimate.lo <= 3.0 <= estimate.hi
    assert 0.925 <= inside / 1000 <= 0.965


def test_the_width_is_that_of_the_standard_error():
    """2 * 1.96 * s / sqrt N. Red when the level or the statistic is another."""
    values = np.random.default_rng(0).normal(0.0, 1.0, 500)
    estimate = bootstrap_mean(values)
    expected = 2 * 1.96 * values.std() / math.sqrt(500)
    assert estimate.hi - estimate.lo == pytest.approx(expected, rel=0.06)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.lo < estimate.mean < estimate.hi


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    """Red when the generator is not seeded, or the seed is ignored."""
    values = np.random.default_rng(0).normal(size=30)
    np.random.seed(1)
    first = bootstrap_mean(values, seed=7)
    np.random.seed(2)
    assert bootstrap_mean(values, seed=7) == first
    assert bootstrap_mean(values, seed=8) != first


def test_nans_are_dropped_and_counted():
    """Red when NaN counts as zero or spreads to the mean."""
    values = np.array([1.0, np.nan, 2.0, 4.0, np.nan])
    estimate, clean = bootstrap_mean(values), bootstrap_mean(values[~np.isnan(values)])
    assert (estimate.mean, estimate.lo, estimate.hi) == (clean.mean, clean.lo, clean.hi)
    assert (estimate.count, estimate.dropped) == (3, 2)
    assert (clean.count, clean.dropped) == (3, 0)


def test_equal_values_have_an_interval_of_no_width():
    """Red when the method is not the percentile one (BCa divides by zero)."""
    estimate = bootstrap_mean(np.full(5, 0.25))
    assert (estimate.mean, estimate.lo, estimate.hi) == (0.25, 0.25, 0.25)


def test_one_image_has_a_mean_but_no_interval():
    """Red when the interval of a single value is reported as certain."""
    estimate = bootstrap_mean(np.array([3.0, np.nan]))
    assert (estimate.mean, estimate.count, estimate.dropped) == (3.0, 1, 1)
    assert math.isnan(estimate.lo)
    assert math.isnan(estimate.hi)


def test_no_value_at_all_gives_nan():
    """Red when an empty mean warns or raises."""
    estimate = bootstrap_mean(np.array([np.nan]))
    assert math.isnan(estimate.mean)
    assert (estimate.count, estimate.dropped) == (0, 1)
    assert bootstrap_mean(np.array([])).count == 0


def test_a_table_of_values_is_refused():
    """Red when the check is dropped."""
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        bootstrap_mean(np.zeros((2, 3)))
