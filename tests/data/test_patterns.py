"""Drawn crops: in range, a function of the generator, of every kind, and only where they are asked for."""

import numpy as np
import torch

from jeppa.data import CropDataset, open_source
from jeppa.data.crops import KINDS, draw_pattern


def test_every_kind_is_in_range_and_repeats() -> None:
    for seed in range(40):
        first, again = (draw_pattern(32, np.random.default_rng(seed)) for _ in range(2))
        assert first.equal(again)
        assert first.shape == (3, 32, 32)
        assert first.dtype == torch.float32
        assert first.abs().max() <= 1.0
        assert first.isfinite().all()


def test_shares_of_two_colours_lie_between_none_and_all() -> None:
    for kind in KINDS:
        for seed in range(10):
            share = kind(24, np.random.default_rng(seed))
            assert share.shape == (24, 24)
            assert 0.0 <= share.min() <= share.max() <= 1.0


def test_stripes_have_their_period() -> None:
    from jeppa.data.crops import _draw_stripes

    periods = []
    for seed in range(200):
        spectrum = np.abs(np.fft.fft2(_draw_stripes(64, np.random.default_rng(seed)) - 0.5))
        down, across = np.unravel_index(spectrum[:, :32].argmax(), (64, 32))
        frequency = np.hypot(np.fft.fftfreq(64)[down], across / 64)
        periods.append(1.0 / max(frequency, 1e-9))
    assert np.quantile(periods, 0.05) < 4.0 < 24.0 < np.quantile(periods, 0.95)


def test_crops_are_drawn_only_where_asked_for() -> None:
    source = open_source("builtin:photos", "train")
    cut, some = CropDataset(source, 16, 0), CropDataset(source, 16, 0, patterns=0.5)
    equal = [cut[n]["x"].equal(some[n]["x"]) for n in range(40)]
    assert 8 < sum(equal) < 32
