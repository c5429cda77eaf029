"""Evaluation from end to end: all keys, any size and number of images, and one clear line for what cannot be."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from jeppa.data import open_source
from jeppa.errors import CheckpointError, ConfigError, DataError
from jeppa.lab import measure
from jeppa.lab.evaluate import evaluate, pick_evenly, write_metrics
from jeppa.lab.measure import Nets, fit_to_grid, measure_image
from jeppa.lpips import WeightsError
from jeppa.vae import HeteroscedasticVAE

pytestmark = pytest.mark.usefixtures("one_thread")

LIKENESS = ["psnr", "ssim", "delta_e2000", "gradient_energy_ratio", "lpips_alex", "lpips_vgg"]
SETS = ["fd_efficientnet_lite0", "fd_floor"]
CODES = ["distortion_bpd", "rate_bpd", "elbo_bpd", "png_bpd", "jpeg2000_bpd", "webp_bpd"]
SIGMA = ["ence", "chi2", "crps", "ause", "ause_sobel", "sigma_error_spearman"]
SIGMA += ["ence_constant", "ence_sobel", "ence_reference", *(f"coverage_{level}" for level in (50, 68, 90, 95))]
RECALIBRATED = ["chi2_recalibrated", "ence_recalibrated", "coverage_90_recalibrated"]
RECALIBRATED += ["recalibration_slope", "recalibration_offset"]
KEYS = [*LIKENESS, *SETS, *CODES, *SIGMA, *RECALIBRATED]


def vae(likelihood="faithful"):
    """An untrained net whose sigma varies from pixel to pixel, if it has a head."""
    torch.manual_seed(0)
    net = HeteroscedasticVAE("tiny", likelihood).eval()
    if net.sigma_head is not None:
        torch.nn.init.normal_(net.sigma_head.out.weight, std=0.1)
    return net


def folder(path, count, width=40, height=32):
    """Smooth noise, each image with its own contrast."""
    rng = np.random.default_rng(0)
    for index in range(count):
        noise = rng.integers(0, 256, (max(1, height // 4), max(1, width // 4), 3), dtype=np.uint8)
        Image.fromarray(noise // (1 + index % 3)).resize((width, height)).save(path / f"{index:03d}.png")
    return open_source(path)


def check_values_or_reasons(metrics):
    for key in KEYS:
        assert metrics[key] is not None or metrics["reasons"][key]
        interval = metrics[f"{key}_ci95"]
        assert interval == [None, None] or interval[0] <= interval[1]


@pytest.mark.parametrize("likelihood", ["faithful", "fixed", "student-t", "band"])
def test_every_key_has_a_value_or_a_reason(tmp_path, likelihood):
    """For each family of p(x|z), as JSON. Red when a key is forgotten or a NaN gets through."""
    evaluation = evaluate(vae(likelihood), folder(tmp_path, 5), None, "m")
    check_values_or_reasons(evaluation.metrics)
    write_metrics(evaluation, tmp_path / "out" / "metrics.json")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == evaluation.metrics
    assert json.loads(json.dumps([evaluation.rows, evaluation.curves], allow_nan=False))
    assert evaluation.metrics["psnr"] == pytest.approx(np.mean([row["psnr"] for row in evaluation.rows]), rel=1e-5)
    assert [row["name"] for row in evaluation.rows] == [f"{i:03d}.png" for i in range(5)]


def test_curves_have_their_documented_shape(tmp_path):
    """Red when a curve is missing or of another length."""
    curves = evaluate(vae(), folder(tmp_path, 2), None, "m", perceptual=False).curves
    assert len(curves["reliability"]["predicted"]) == len(curves["reliability"]["observed"]) == 20
    assert sum(curves["pit"]) == pytest.approx(1.0, abs=1e-4)
    assert len(curves["pit"]) == 20
    sparse = curves["sparsification"]
    assert [len(sparse[key]) for key in ("removed", "by_sigma", "by_sobel", "oracle")] == [100] * 4
    assert all(low <= high + 1e-6 for low, high in zip(sparse["oracle"], sparse["by_sigma"], strict=True))


@pytest.mark.parametrize("likelihood", ["faithful", "band"])
@pytest.mark.parametrize(("width", "height"), [(8, 8), (3, 5), (17, 40), (1, 1)])
def test_images_of_any_size_are_measured(tmp_path, likelihood, width, height):
    """Red when a metric raises on a small image."""
    metrics = evaluate(vae(likelihood), folder(tmp_path, 2, width, height), None, "m").metrics
    check_values_or_reasons(metrics)
    assert metrics["psnr"] is not None
    assert metrics["lpips_alex"] is None
    assert "below 31 pixels" in metrics["reasons"]["lpips_alex"]


def test_one_image_has_values_but_no_spread_and_no_recalibration(tmp_path):
    """Red when an interval or a fit on itself is made up."""
    metrics = evaluate(vae(), folder(tmp_path, 1), None, "m", perceptual=False).metrics
    check_values_or_reasons(metrics)
    assert metrics["psnr_ci95"] == metrics["ence_ci95"] == [None, None]
    assert "one image" in metrics["reasons"]["ci95"]
    assert "at least 2" in metrics["reasons"]["chi2_recalibrated"]


def test_a_constant_sigma_is_judged_in_bins_of_the_edges(tmp_path):
    """Sigma is 1, the error is not. Red when its ties make one bin (ENCE then follows from the mean alone)."""
    metrics = evaluate(vae("fixed"), folder(tmp_path, 3), None, "m", perceptual=False).metrics
    assert metrics["ence_constant"] is None
    assert "constant" in metrics["reasons"]["ence_constant"]
    assert 0.0 < metrics["ence"] < 1.0
    assert metrics["recalibration_slope"] == pytest.approx(1.0)
    assert metrics["sigma_error_spearman"] is None
    assert metrics["sigma_error_spearman_sobel"] is not None


@pytest.mark.parametrize("likelihood", ["faithful", "fixed", "student-t", "band"])
def test_recalibration_brings_chi2_to_one(tmp_path, likelihood):
    """Of an untrained net. Red when the offset has the wrong sign."""
    metrics = evaluate(vae(likelihood), folder(tmp_path, 12), None, "m", perceptual=False).metrics
    before, after = (abs(math.log(metrics[key])) for key in ("chi2", "chi2_recalibrated"))
    assert after < before
    assert abs(metrics["coverage_90_recalibrated"] - 0.9) < abs(metrics["coverage_90"] - 0.9)


def test_the_figures_of_an_image_do_not_depend_on_the_others(tmp_path):
    """Those that a limit leaves. Red when noise is seeded by the order of measuring, or the choice is uneven."""
    source = folder(tmp_path, 6)
    whole = evaluate(vae(), source, None, "m", perceptual=False)
    part = evaluate(vae(), source, None, "m", limit=3, perceptual=False)
    assert [row["name"] for row in part.rows] == ["001.png", "003.png", "005.png"]
    assert part.metrics["n_images"] == 3
    by_name = {row["name"]: row for row in whole.rows}
    for row in part.rows:
        assert {key: row[key] for key in ("psnr", "elbo_bpd", "chi2")} == {
            key: by_name[row["name"]][key] for key in ("psnr", "elbo_bpd", "chi2")
        }
    assert len(evaluate(vae(), source, None, "m", limit=99, perceptual=False).rows) == 6


def test_from_32_images_on_there_is_a_frechet_distance(tmp_path):
    """Red when the limit is off, or the reconstruction of an untrained net is as near as the other half."""
    metrics = evaluate(vae(), folder(tmp_path, 32, 8, 8), None, "m").metrics
    assert metrics["fd_efficientnet_lite0"] > 2 * metrics["fd_floor"] > 0.0
    assert metrics["reasons"]["fd_floor_ci95"]


def test_missing_weights_are_a_reason_and_no_crash(tmp_path, monkeypatch):
    """Red when the error of one loader stops the others or the run."""

    def fail(*_):
        raise WeightsError("weights are not installed: pip install them")

    monkeypatch.setattr("jeppa.lab.evaluate.load_lpips", fail)
    monkeypatch.setattr("jeppa.lab.evaluate.load_features", fail)
    metrics = evaluate(vae(), folder(tmp_path, 2), None, "m").metrics
    for key in ("lpips_alex", "lpips_vgg", "fd_efficientnet_lite0", "fd_floor"):
        assert metrics[key] is None
        assert metrics["reasons"][key] == "weights are not installed: pip install them"
    assert metrics["psnr"] is not None


def test_sides_are_cut_around_the_centre_to_multiples_of_8():
    """Red when a corner is kept, more than 7 pixels go, or a short side is cut to nothing."""
    x = torch.arange(3 * 21 * 30, dtype=torch.float32).view(1, 3, 21, 30)
    torch.testing.assert_close(fit_to_grid(x), x[..., 2:18, 3:27])
    assert fit_to_grid(x[..., :5, :]).shape == (1, 3, 8, 24)
    assert fit_to_grid(x[..., :16, :8]).shape == (1, 3, 16, 8)


def test_pixels_that_are_no_numbers_are_named():
    """Red when NaN spreads into means."""
    x = torch.zeros(1, 3, 16, 16)
    x[0, 0, 0, 0] = math.nan
    with pytest.raises(DataError, match=r"'a\.png'.*not a finite number"):
        measure_image(vae(), x, 0, Nets(), 64, "a.png")


def test_a_reconstruction_that_is_no_number_is_named(tmp_path):
    """Red when the model's NaN is taken for a small image."""
    broken = vae()
    broken.vae.decoder.conv_out.bias.data.fill_(math.nan)
    with pytest.raises(CheckpointError, match=r"'000\.png'.*earlier checkpoint"):
        evaluate(broken, folder(tmp_path, 2), None, "m")


def test_a_sigma_at_its_floor_is_measured(tmp_path):
    """The least sigma there is, far below the error. Red when a figure overflows."""
    sharp = vae()
    sharp.sigma_head.out.weight.data.zero_()
    sharp.sigma_head.out.bias.data.fill_(-100.0)
    metrics = evaluate(sharp, folder(tmp_path, 3), None, "m", perceptual=False).metrics
    check_values_or_reasons(metrics)
    assert metrics["chi2"] > 1000.0
    assert metrics["coverage_90"] < 0.05


def test_no_image_and_a_limit_of_none_are_refused(tmp_path):
    """Red when a mean over nothing is reported."""
    with pytest.raises(DataError, match="no image to measure"):
        pick_evenly(0, None)
    with pytest.raises(ConfigError, match="limit is 0"):
        evaluate(vae(), folder(tmp_path, 1), None, "m", limit=0)


def test_codecs_and_the_bound_are_of_the_same_picture(tmp_path):
    """Red when the codec gets the uncut picture: 41 pixels wide, its bits would be divided by those of 40."""
    source = folder(tmp_path, 1, width=41)
    row = evaluate(vae(), source, None, "m", perceptual=False).rows[0]
    pixels = source.refs[0].read_pixels()[:, :40]
    assert row["png_bpd"] == pytest.approx(measure.lossless_bpd(pixels)["png_bpd"])
