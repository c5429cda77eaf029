import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pixel_unshuffle

from jeppa.bands import BandGaussian, to_bands
from jeppa.gaussian import DiagonalGaussian, Predictive
from jeppa.student_t import DiagonalStudentT
from jeppa.vae import LIKELIHOODS, SigmaHead
from results.synthetic import known_bands, known_gaussian


def test_shared_nll_is_lowest_at_the_mean_squared_error():
    """Red when log variance or log 2 pi is left out."""
    x = torch.randn(4, 3, 8, 8) * 0.2
    decoded = DiagonalGaussian(torch.zeros_like(x), torch.zeros_like(x))
    best = x.square().mean().log()
    at_best = LIKELIHOODS["shared"].loss(x, decoded, best).mean()
    assert at_best < LIKELIHOODS["shared"].loss(x, decoded, best + 0.1).mean()
    assert at_best < LIKELIHOODS["shared"].loss(x, decoded, best - 0.1).mean()
    dims = x[0].numel()
    assert at_best.item() == pytest.approx(0.5 * dims * (math.log(2.0 * math.pi) + best.item() + 1.0), rel=1e-5)


def test_fixed_is_half_the_squared_error_plus_a_constant():
    x = torch.randn(2, 3, 8, 8)
    decoded = DiagonalGaussian(torch.zeros_like(x), torch.full_like(x, -5.0))
    expected = 0.5 * x.square().flatten(1).sum(1) + 0.5 * x[0].numel() * math.log(2.0 * math.pi)
    torch.testing.assert_close(LIKELIHOODS["fixed"].loss(x, decoded, torch.tensor(-3.0)), expected)


def test_nll_gives_up_hard_pixels_and_faithful_does_not():
    """Two pixels of equal error, one with a hundred times the variance: the trap of NLL in one line of algebra.

    Red when the mean's gradient is divided by the predicted variance in `faithful`, or is not in `nll`.
    """
    shares = {}
    for arm in ("nll", "beta-nll", "faithful", "band-faithful"):
        mean = torch.zeros(1, 3, 8, 8, requires_grad=True)
        logvar = torch.full((1, 3, 8, 8), -4.0)
        logvar[..., 0, 0] = -4.0 + math.log(100.0)
        x = torch.full((1, 3, 8, 8), 0.1)
        family = BandGaussian(mean, logvar, "dct") if arm.startswith("band") else DiagonalGaussian(mean, logvar)
        LIKELIHOODS[arm].loss(x, family, torch.tensor(-4.0)).sum().backward()
        shares[arm] = float(mean.grad[0, 0, 0, 0] / mean.grad[0, 0, 4, 4])
    assert shares["nll"] == pytest.approx(0.01, rel=1e-4)
    assert shares["beta-nll"] == pytest.approx(0.1, rel=1e-4)
    assert shares["faithful"] == pytest.approx(1.0, rel=1e-6)
    assert shares["band-faithful"] == pytest.approx(1.0, rel=1e-6)


def test_with_equal_variances_every_arm_pulls_the_mean_alike():
    """So the weight of the KL term means the same for all of them."""
    gradients = []
    for arm in LIKELIHOODS.values():
        if arm.loss is LIKELIHOODS["fixed"].loss or arm.family in ("student-t", "band-t"):
            continue
        mean = torch.zeros(1, 3, 8, 8, requires_grad=True)
        logvar = torch.full((1, 3, 8, 8), -4.0)
        decoded = BandGaussian(mean, logvar, "lapped") if arm.family == "band" else DiagonalGaussian(mean, logvar)
        arm.loss(torch.full((1, 3, 8, 8), 0.1), decoded, torch.tensor(-4.0)).sum().backward()
        gradients.append(mean.grad)
    assert len(gradients) == 7
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-4)


def learn(arm: str, steps: int) -> tuple[float, float]:
    """Train the real sigma head on images of known mean; the mean relative error of sigma and chi2 on others.

    The noise is of the arm's own family: t with five degrees of freedom for an arm with tails.
    """
    torch.manual_seed(0)
    family = LIKELIHOODS[arm].family
    banded = family.startswith("band")
    draws = {name: truth(family, count, seed) for name, count, seed in (("train", 128, 0), ("test", 16, 1))}
    head = SigmaHead(3 * 64, 8, channels=96, blocks=1, tails=family in ("student-t", "band-t"))
    shared = torch.tensor(-4.5)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)

    def predict(mean: torch.Tensor) -> Predictive:
        logvar = head(pixel_unshuffle(mean, 8), mean, shared)
        if banded:
            return BandGaussian(mean, logvar, "lapped", head.degrees if family == "band-t" else None)
        student = family == "student-t"
        return DiagonalStudentT(mean, logvar, head.degrees) if student else DiagonalGaussian(mean, logvar)

    for _ in range(steps):
        known = rows_of(draws["train"], torch.randperm(128)[:16])
        loss = LIKELIHOODS[arm].loss(known.sample(), predict(known.mean), shared).mean() / known.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        learned, known = predict(draws["test"].mean), draws["test"]
        ratio = (0.5 * (learned.element_logvar - known.element_logvar)).exp()
        residual = known.sample(torch.Generator().manual_seed(2)) - known.mean
        residual = to_bands(residual, "lapped") if banded else residual
    chi2 = (residual.square() * (-learned.element_logvar).exp()).mean()
    return float((ratio - 1.0).abs().mean()), float(chi2)


def truth(family: str, count: int, seed: int) -> Predictive:
    degrees = torch.tensor(5.0)
    if family.startswith("band"):
        known = known_bands(count, 64, seed, "lapped").truth
        return replace(known, degrees=degrees) if family == "band-t" else known
    known = known_gaussian(count, 64, seed)
    if family == "student-t":
        return DiagonalStudentT(known.mean, known.logvar, degrees)
    return DiagonalGaussian(known.mean, known.logvar)


def rows_of(known: Predictive, rows: torch.Tensor) -> Predictive:
    logvar = "band_logvar" if isinstance(known, BandGaussian) else "logvar"
    return replace(known, **{"mean": known.mean[rows], logvar: getattr(known, logvar)[rows]})


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm",
    [
        *("nll", "beta-nll", "student-t", "faithful", "band", "band-faithful"),
        pytest.param("band-beta", marks=pytest.mark.xfail(strict=True, reason="10.9 %, and more steps make it worse")),
        pytest.param(
            "band-t-faithful",
            marks=pytest.mark.xfail(
                strict=True,
                reason="11.8 %, chi2 0.88: what sigma misses looks like heavier tails, so the variance grows",
            ),
        ),
    ],
)
def test_the_sigma_head_recovers_a_known_sigma(arm):
    """Within 10 %, chi2 in 0.9 to 1.1, of pixels or bands as the arm models."""
    error, chi2 = learn(arm, steps=1500)
    assert error < 0.10
    assert 0.9 < chi2 < 1.1


@pytest.mark.parametrize("arm", ["faithful", "band-faithful"])
def test_the_sigma_head_comes_near_a_known_sigma_soon(arm):
    """The quick part of the above. Red when the variance term is weighted, or the residual is not squared."""
    error, chi2 = learn(arm, steps=150)
    assert error < 0.35
    assert 0.7 < chi2 < 1.3
