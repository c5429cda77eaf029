"""The claims ledger: one rule for verdicts, figures paired and averaged as promised, no crash for what is missing."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jeppa.vae import LIKELIHOODS
from results.claims import paths, stability
from results.claims.__main__ import main
from results.claims.evidence import Evidence
from results.claims.folder import CompareFolder, NotMeasuredError, take_figure
from results.claims.ledger import compare_with_old, describe_setup, judge, judge_promise, render
from results.claims.promises import PROMISES
from results.claims.trials import HETEROSCEDASTIC, KnobTurns, PerImage, compare_steps, smooth
from results.claims.trials import Stability as StabilityTrial
from results.claims.verdict import Figure, Promise, average_images, average_seeds, decide

Json = dict[str, object]


def figure(lo: float, hi: float) -> Figure:
    return Figure((lo + hi) / 2.0, lo, hi, (), 1)


def write_run(root: Path, name: str, rows: list[Json] | None = None, log: list[Json] | None = None) -> None:
    run = root / "runs" / name
    run.mkdir(parents=True)
    if rows is not None:
        (run / "evaluation.json").write_text(json.dumps({"metrics": {"ence": 0.1, "ence_constant": 0.7}, "rows": rows}))
    if log is not None:
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))


def evidence(root: Path) -> Evidence:
    return Evidence(CompareFolder(root), root / "stability", lambda _: None, grid=False)


@pytest.mark.parametrize(
    ("lo", "hi", "promise", "verdict"),
    [
        (0.1, 0.2, Promise(low=0.0), "confirmed"),
        (-0.1, 0.2, Promise(low=0.0), "undecided"),
        (-0.2, -0.1, Promise(low=0.0), "refuted"),
        (0.0, 0.0, Promise(low=0.0), "refuted"),
        (0.0, 0.0, Promise(high=0.0), "refuted"),
        (0.0, 0.0, Promise(low=-0.05), "confirmed"),
        (-0.2, -0.1, Promise(high=0.0), "confirmed"),
        (0.9, 1.1, Promise(0.85, 1.15), "confirmed"),
        (0.8, 1.1, Promise(0.85, 1.15), "undecided"),
        (1.2, 1.3, Promise(0.85, 1.15), "refuted"),
        (math.nan, math.nan, Promise(low=0.0), "undecided"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(lo: float, hi: float, promise: Promise, verdict: str) -> None:
    """Red when the estimate alone decides, a side is swapped, or "no difference" counts as "better"."""
    assert decide(figure(lo, hi), promise) == verdict


def test_seeds_are_averaged_before_images_are_resampled():
    """Seeds that differ by a constant do not widen the interval. Red when seed x image values are resampled."""
    images = np.linspace(0.0, 1.0, 30)
    one, two = average_images(np.stack([images])), average_images(np.stack([images - 5.0, images + 5.0]))
    assert (two.value, two.lo, two.hi) == pytest.approx((one.value, one.lo, one.hi))
    assert two.by_seed == pytest.approx((-4.5, 5.5))
    assert average_images(np.array([[1.0, np.nan, 3.0], [1.0, 9.0, 3.0]])).images == 2, (
        "an image without a value counts"
    )


def test_the_interval_over_seeds_is_students():
    """Of 1, 2, 3: 2 +- 4.303 / sqrt 3. Red with a normal quantile, or when ratios are averaged as they are."""
    found = average_seeds(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.hi - found.value) == pytest.approx((2.0, 4.3027 / math.sqrt(3.0)), rel=1e-4)
    assert average_seeds(np.array([0.5, 2.0]), ratio=True).value == pytest.approx(1.0)
    assert math.isnan(average_seeds(np.array([1.0])).lo)


def test_images_are_paired_by_name_and_seeds_by_number(tmp_path: Path):
    """The other arm lists its images backwards and has a seed more. Red when rows are paired by position."""
    rows = [{"name": name, "psnr": level} for name, level in (("a", 20.0), ("b", 30.0), ("c", 40.0))]
    better = [{"name": row["name"], "psnr": float(str(row["psnr"])) + 1.0} for row in rows]
    write_run(tmp_path, "shared-0", rows)
    write_run(tmp_path, "shared-1", rows)
    write_run(tmp_path, "faithful-0", [*better[::-1], {"name": "only here", "psnr": 99.0}])
    found = PerImage("t", "psnr", "PSNR", Promise(low=0.5)).judge(evidence(tmp_path), "faithful")
    assert found.figure is not None
    assert (found.figure.value, found.figure.lo, found.figure.hi) == pytest.approx((1.0, 1.0, 1.0))
    assert (found.figure.images, len(found.figure.by_seed), found.verdict) == (3, 1, "confirmed")


def test_a_difference_of_two_figures_is_taken_image_by_image(tmp_path: Path):
    """Red when the sign is swapped or null counts as zero."""
    assert take_figure({"a": 1.0, "b": 3.0}, "a - b") == -2.0
    assert math.isnan(take_figure({"a": None, "b": 3.0}, "a - b"))
    with pytest.raises(NotMeasuredError, match="no b among"):
        take_figure({"a": 1.0}, "a - b")


def logged(values: list[float]) -> list[Json]:
    return [{"step": 10 * (index + 1), "psnr": value, "elbo_bpd": -value} for index, value in enumerate(values)]


@pytest.mark.parametrize(("key", "rising"), [("psnr", True), ("elbo_bpd", False)])
def test_twice_as_fast_takes_half_the_steps(tmp_path: Path, key: str, rising: bool):
    """A level that is reached at 200 of 300 steps is reached at 100. Red when the share is upside down."""
    write_run(tmp_path, "shared-0", log=logged([float(n) for n in range(1, 31)]))
    write_run(tmp_path, "nll-0", log=logged([2.0 * n for n in range(1, 31)]))
    write_run(tmp_path, "band-0", log=logged([0.0] * 30))
    folder = CompareFolder(tmp_path)
    assert compare_steps(folder, "nll", "shared", key, rising, 0) == pytest.approx(0.5, abs=0.06)
    assert compare_steps(folder, "shared", "shared", key, rising, 0) == 1.0
    assert compare_steps(folder, "band", "shared", key, rising, 0) == pytest.approx(300 / 200), "never: all its steps"


def test_smoothing_looks_back_only():
    """Width 3 of 30 lines. Red when a later line moves an earlier value."""
    steps, values = smooth(logged([0.0] * 29 + [3.0]), "psnr")
    assert values[-1] == pytest.approx(1.0)
    assert values[:-1].tolist() == [0.0] * 29
    assert steps[0] == 10.0


def test_a_run_spikes_when_its_bound_rises_and_stays_and_not_for_one_line():
    """Red when one unlucky batch counts, or a slow rise does not."""
    calm = [8.0, 7.0, 6.5, 6.0, 5.9, 5.8, 5.8]
    assert not stability.has_spiked(calm)
    assert not stability.has_spiked([*calm[:4], 30.0, *calm[4:]])
    assert stability.has_spiked([*calm[:4], 30.0, 31.0, *calm[4:]])
    assert stability.has_spiked([*calm, 6.2, 6.6, 7.0, 7.1])
    assert stability.has_spiked([*calm, None])


def test_a_run_diverges_three_decibels_below_its_twin_or_when_it_is_not_finite():
    """Red when it is compared with another twin, or when a NaN passes."""
    assert stability.has_diverged({"psnr": 16.9}, {"psnr": 20.0})
    assert not stability.has_diverged({"psnr": 17.1}, {"psnr": 20.0})
    assert stability.has_diverged({"psnr": None}, {"psnr": None})


@pytest.mark.parametrize(("troubled", "verdict"), [(0, "confirmed"), (1, "undecided"), (2, "refuted")])
def test_stability_is_decided_by_counts_beyond_those_of_shared(tmp_path: Path, troubled: int, verdict: str):
    """One run of shared is troubled itself. Red when that is not taken off, or the wrong data set is counted."""
    found = {job: {"psnr": 20.0, "bounds": [6.0] * 5} for job in stability.list_jobs()}
    bad = [job for job in found if (job.arm, job.data) == ("nll", "clean")][: troubled + 1]
    bad += [next(job for job in found if (job.arm, job.data) == ("shared", "clean"))]
    for job in bad:
        found[job]["bounds"] = [6.0, 6.0, 6.0, 9.0, 9.0, 9.0]
    known = evidence(tmp_path)
    known.run_grid = lambda: found  # type: ignore[method-assign]
    assert StabilityTrial("t", "clean").judge(known, "nll").verdict == verdict
    assert StabilityTrial("t", "outliers").judge(known, "nll").verdict == "confirmed"


def test_the_grid_is_resumed_and_an_outlier_set_differs_in_every_20th_image(
    vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One short run of the grid. Red when a finished run is trained again, or clean images are replaced."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shared-0").symlink_to(vae_folder)
    monkeypatch.setattr(stability, "STEPS", 6)
    monkeypatch.setattr(stability, "TRAIN_IMAGES", 3)
    work = tmp_path / "work"
    stability.write_data(CompareFolder(tmp_path), work)
    differing = [
        path.name
        for path in sorted((work / "data" / "clean").rglob("*.png"))
        if path.read_bytes() != (work / "data" / "outliers" / path.parent.name / path.name).read_bytes()
    ]
    assert differing == ["0000.png"]
    job = stability.list_jobs()[1]
    stability.run_job(job, work)
    result = json.loads((work / "runs" / job.name / "result.json").read_text())
    assert 5.0 < result["psnr"] < 50.0
    assert len(result["bounds"]) == 2
    monkeypatch.setattr(stability, "list_jobs", lambda: [job])
    assert stability.run_grid(CompareFolder(tmp_path), work, pytest.fail) == {job: result}


def test_the_knob_must_turn_one_way_for_every_seed(tmp_path: Path):
    """One seed of two falls once. Red when the mean over seeds decides, or the sign of fidelity is lost."""
    write_run(tmp_path, "nll-0")
    write_run(tmp_path, "nll-1")
    rising = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    uneven = np.array([0.0, 1.0, 0.9, 3.0, 4.0])
    known = evidence(tmp_path)
    known.folder.load_images = lambda *_: {"a": torch.zeros(1)}  # type: ignore[method-assign,assignment]

    def verdict(second: np.ndarray, side: str) -> str:
        known.turn_knob = lambda arm, seed, place: paths.Knob((rising, second)[seed], -rising)  # type: ignore[method-assign]
        return KnobTurns("t", "pixels", side, "").judge(known, "nll").verdict

    assert verdict(rising, "diversity") == "confirmed"
    assert verdict(uneven, "diversity") == "refuted"
    assert verdict(uneven, "fidelity") == "confirmed"


def toy_distance(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda x, recon: (x - recon).square().flatten(1).mean(1).sqrt()


@pytest.fixture
def compared_folder(vae_folder: Path, tmp_path: Path) -> Path:
    """One arm, called both `shared` and `faithful`, with a run each; no other arm, no evaluation of `shared`."""
    (tmp_path / "runs").mkdir()
    for arm in ("shared", "faithful"):
        (tmp_path / "runs" / f"{arm}-0").symlink_to(vae_folder)
    return tmp_path


def test_every_promise_is_judged_and_what_is_missing_says_why(compared_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Red when a missing arm, file or key raises, or when the same model is not equal to itself."""
    monkeypatch.setattr(paths, "load_lpips", toy_distance)
    known = evidence(compared_folder)
    claims = [entry for promise in PROMISES for entry in judge_promise(promise, known, lambda _: None)]
    assert {entry["promise"] for entry in claims} == set(PROMISES)
    found = {(entry["test"], one["arm"]): one for entry in claims for one in entry["findings"]}
    assert found["LPIPS alex", "faithful"]["note"] == "faithful-0/evaluation.json is missing"
    assert found["LPIPS alex", "nll"]["note"] == "no run of arm nll"
    assert found["stable on clean data", "nll"]["note"] == "left out by --no-grid"
    for test in ("sharpness", "edge PSNR", "spectrum of a draw", "specks in a draw", "path length"):
        assert found[test, "faithful"]["note"] == "equal for every image and seed"
        assert found[test, "faithful"]["verdict"] == "refuted"
    assert found["residual: diversity rises", "faithful"]["verdict"] == "confirmed"
    record = {
        "command": "c",
        "commit": None,
        "seconds": 1.0,
        "setup": describe_setup(),
        "claims": claims,
    }
    text = render(record)
    assert all(f"| {entry['test']} |" in text for entry in claims)
    assert "nan" not in text.lower().split()


def test_a_damaged_file_is_a_reason_and_no_crash(tmp_path: Path):
    """Red when the parser's error escapes."""
    write_run(tmp_path, "faithful-0")
    (tmp_path / "runs" / "faithful-0" / "evaluation.json").write_text("{")
    found = judge(PerImage("t", "psnr", "PSNR", Promise(low=0.0), versus=None), evidence(tmp_path), "faithful")
    assert found.verdict == "not measured"
    assert "evaluation.json" in found.note


def test_a_path_between_equal_steps_is_even_and_its_length_is_that_of_the_ends(vae_folder: Path):
    """With the root mean square as distance a straight line of pictures has length 1/8 a step."""
    from jeppa.pipeline import load_model

    vae = load_model(vae_folder).codec.vae
    a, b = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 0.5)
    row = paths.walk(vae, a, b, toy_distance("alex"))
    assert row["path_length"] >= 1.0 / (paths.FRAMES - 1) - 1e-6, "a path is no shorter than its ends are apart"
    assert row["path_unevenness"] >= 1.0


def test_one_sided_tests_are_written_down_for_every_arm_that_a_promise_is_made_for():
    """Names are unique, and the plain formula stands beside every verdict. Red when a test forgets an arm."""
    trials = [trial for promise in PROMISES.values() for trial in promise]
    assert len({trial.name for trial in trials}) == len(trials)
    assert all(trial.primary in trial.arms for trial in trials)
    assert all("nll" in trial.arms for trial in trials if trial.name != "bound below plain NLL")
    assert {arm.removesuffix("+lpips") for arm in HETEROSCEDASTIC} == {
        name for name, arm in LIKELIHOODS.items() if arm.has_head
    }


def test_a_row_measured_again_is_compared_with_its_old_interval():
    """Red when the new interval is asked instead of the old one."""

    def row(value: float) -> list[Json]:
        return [{"test": "t", "findings": [{"arm": "nll", "figure": {"value": value, "lo": 0.0, "hi": 1.0}}]}]

    assert "inside the old interval" in next(compare_with_old(row(0.5), row(0.7)))
    assert "OUTSIDE the old interval" in next(compare_with_old(row(0.5), row(1.2)))
    assert "no old interval" in next(compare_with_old([], row(0.7)))


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Red when a wrong folder or row gives a traceback."""
    (tmp_path / "runs").mkdir()
    for arguments in (["--compare", str(tmp_path / "none")], ["--compare", str(tmp_path), "--row", "sharper"]):
        assert main(arguments) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
