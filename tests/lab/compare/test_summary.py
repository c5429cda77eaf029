import numpy as np
import pytest

from jeppa.errors import CheckpointError
from jeppa.lab.compare.plan import ComparisonSettings, Run
from jeppa.lab.compare.run import compare_rates, pair_arms, read_evaluation, summarise_arm
from jeppa.lab.statistics import t_interval, two_way_interval


def evaluation(psnr, rate=0.1, ence=0.2):
    rows = [{"name": f"{i}.png", "psnr": value, "rate_bpd": rate, "lpips_alex": None} for i, value in enumerate(psnr)]
    metrics = {"psnr": float(np.mean(psnr)), "rate_bpd": rate, "lpips_alex": None, "ence": ence, "psnr_ci95": [0, 1]}
    return {"metrics": metrics | {"n_images": len(rows), "reasons": {}}, "rows": rows, "curves": {}}


def test_the_interval_covers_seeds_and_pictures():
    """Nine times of ten or so: red when only one of the two is resampled."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        table = rng.normal(0, 1.0, (8, 1)) + rng.normal(0, 1.0, (1, 30)) + rng.normal(0, 0.3, (8, 30))
        low, high = two_way_interval(table, trial)
        hits += low <= 0.0 <= high
    assert hits >= 85


def test_one_value_has_no_interval():
    assert two_way_interval(np.ones((1, 1))) is None
    assert t_interval(np.ones(1)) is None


def test_t_interval_is_that_of_scipy():
    from scipy import stats

    values = np.array([1.0, 2.0, 4.0])
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx([expected.low, expected.high])


def test_differences_are_paired_by_picture_and_seed():
    """Pictures differ by 10 dB, arms by exactly 0.5: the interval of the difference has no width."""
    pictures = [20.0, 30.0, 40.0]
    measured = {
        "shared": [evaluation(pictures), evaluation([v + 1 for v in pictures])],
        "faithful": [evaluation([v + 0.5 for v in pictures]), evaluation([v + 1.5 for v in pictures])],
    }
    found = [entry for entry in pair_arms(measured, "shared") if entry.key == "psnr"]
    assert len(found) == 1
    assert found[0].difference == pytest.approx(0.5)
    assert found[0].ci95 == pytest.approx([0.5, 0.5])
    assert (found[0].a, found[0].b) == ("faithful", "shared")


def test_a_figure_without_values_stays_null():
    found = summarise_arm([evaluation([20.0, 21.0])])
    assert found["lpips_alex"].mean is None
    assert found["lpips_alex"].ci95 is None
    assert found["psnr"].mean == pytest.approx(20.5)
    assert "psnr_ci95" not in found
    assert "n_images" not in found


def test_pooled_figures_get_an_interval_over_seeds():
    found = summarise_arm([evaluation([20.0], ence=e) for e in (0.1, 0.2, 0.3)])["ence"]
    assert found.mean == pytest.approx(0.2)
    assert found.per_seed == pytest.approx([0.1, 0.2, 0.3])
    assert found.ci95 == pytest.approx(t_interval(np.array([0.1, 0.2, 0.3])))


@pytest.mark.parametrize(("rate", "matched"), [(0.1029, True), (0.1031, False), (0.0969, False)])
def test_rates_match_within_three_percent(rate, matched):
    comparison = ComparisonSettings(arms=("shared", "nll"))
    measured = {"shared": [evaluation([20.0])], "nll": [evaluation([20.0], rate)]}
    found = compare_rates(comparison, measured)
    assert found["nll"].matched is matched
    assert found["nll"].ratio == pytest.approx(rate / 0.1)


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"evaluation\.json"):
        read_evaluation(Run("nll", 0, tmp_path))
