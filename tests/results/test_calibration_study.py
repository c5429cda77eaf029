"""The study of calibration: two numbers mend a sigma that is too small by one factor, and the table tells it."""

import pytest
import torch

from jeppa.vae.sigma_head import LOGVAR_RANGE, RisingCurve
from results import calibration as study


def test_figures_before_and_after_two_numbers():
    """Errors of twice sigma. Red when the fit is not applied, or a figure is not that of the curve."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(3):
        logvar = torch.empty(1, 3, 64, 64).uniform_(-8.0, -4.0, generator=generator)
        mean = torch.zeros_like(logvar)
        images.append((2.0 * (0.5 * logvar).exp() * torch.randn(logvar.shape, generator=generator), mean, logvar))
    before = study.judge(images, RisingCurve(*LOGVAR_RANGE))
    after = study.judge(images, study.fit_two_numbers(images, -6.0))
    assert before["chi2"][0] == pytest.approx(4.0, rel=0.05)
    assert before["ence"][0] == pytest.approx(1.0, abs=0.05)
    assert after["chi2"][0] == pytest.approx(1.0, rel=0.05)
    assert after["ence"][0] < 0.05
    assert after["coverage_90"][0] == pytest.approx(0.9, abs=0.01)
    record = {"command": "c", "commit": "abc", "machine": {"processor": "p"}, "kinds": {"dots": {"two numbers": after}}}
    assert f"| 3 dots | two numbers | {after['ence'][0]:.3f} [" in study.render(record)
