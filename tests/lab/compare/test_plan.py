import json

import pytest

from jeppa.config import parse
from jeppa.errors import CheckpointError, ConfigError
from jeppa.lab.compare import ComparisonSettings
from jeppa.lab.compare.plan import Run, list_runs, make_run_settings, needs_rate, read_settled_rate


def test_the_reference_comes_first_and_every_arm_gets_every_seed(tmp_path):
    comparison = ComparisonSettings(arms=("nll", "faithful", "shared"), seeds=(3, 5))
    names = [run.name for run in list_runs(comparison, tmp_path)]
    assert names == ["shared-3", "shared-5", "nll-3", "nll-5", "faithful-3", "faithful-5"]


def test_without_shared_the_first_arm_is_the_reference():
    assert ComparisonSettings(arms=("nll", "faithful")).reference == "nll"


def test_only_arms_with_another_encoder_adapt_beta():
    """Red when an arm that equals the reference by construction is pulled about by the controller."""
    comparison = ComparisonSettings(arms=("shared", "faithful", "band-faithful", "nll", "fixed", "band"))
    adapted = {arm for arm in comparison.arms if needs_rate(comparison, arm)}
    assert adapted == {"nll", "fixed", "band"}
    other = ComparisonSettings(arms=("nll", "faithful", "band-faithful"))
    assert {arm for arm in other.arms if needs_rate(other, arm)} == {"faithful", "band-faithful"}


def test_runs_differ_in_arm_seed_and_beta_alone(tmp_path):
    """The matched budget: same data, order, steps, batch, learning rate, architecture."""
    comparison = ComparisonSettings(arms=("shared", "nll"), seeds=(0,), steps=50)
    shared, nll = (
        make_run_settings(comparison, run, rate).model_dump()
        for run, rate in zip(list_runs(comparison, tmp_path), (None, 0.1), strict=True)
    )
    assert {key for key in shared if shared[key] != nll[key]} == {"likelihood", "rate"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"arms": ["shared", "nil"]}, "arms"),
        ({"arms": []}, "arms"),
        ({"arms": ["nll", "nll"]}, "only once"),
        ({"seeds": [1, 1]}, "only once"),
        ({"steps": 0}, "steps"),
        ({"evaluate_at": 100}, "evaluate_at"),
        ({"stepz": 1}, "did you mean 'steps'"),
    ],
)
def test_bad_settings_are_named(values, named):
    with pytest.raises(ConfigError, match=named):
        parse(ComparisonSettings, values, "flags")


def test_settled_rate_is_the_mean_of_the_last_fifth(tmp_path):
    rates = [9.0] * 8 + [0.1, 0.3]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps({"rate_bpd": rate}) + "\n" for rate in rates))
    assert read_settled_rate(Run("shared", 0, tmp_path)) == pytest.approx(0.2)


def test_a_run_without_a_log_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"log\.jsonl"):
        read_settled_rate(Run("shared", 0, tmp_path))
