"""The whole of `jeppa compare` in real processes, on a tiny model."""

import json
import signal
import subprocess
import sys
import time

import pytest

from jeppa.cli import run
from jeppa.lab.compare.work import EVALUATION
from jeppa.lab.contract import Budget, Comparison

FLAGS = ["--data", "builtin:photos", "--preset", "tiny", "--resolution", "16", "--batch-size", "2", "--images", "2"]
FLAGS += ["--evaluate-at", "64", "--jobs", "2"]


def command(out, steps, arms="shared,faithful,nll", seeds="0"):
    return ["compare", "--out", str(out), "--steps", str(steps), "--arms", arms, "--seeds", seeds, *FLAGS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        assert run(command(out, 6)) == 0
    return out


def test_it_writes_the_page_and_the_contract(finished):
    result = json.loads((finished / "compare.json").read_text())
    assert set(result) == set(Comparison.model_fields)
    assert set(result["budget"]) == set(Budget.model_fields)
    assert [arm["arm"] for arm in result["arms"]] == ["shared", "faithful", "nll"]
    assert all(arm["seed_count"] == 1 for arm in result["arms"])
    assert {entry["b"] for entry in result["paired"]} == {"shared", "nll"}
    assert (finished / "compare.html").stat().st_size > 10_000
    for picture in result["gallery"]:
        assert (finished / picture["original"]).is_file()
        assert (finished / picture["arms"]["nll"]["draw"]).is_file()


def test_the_faithful_mean_is_that_of_shared_in_every_picture(finished):
    """The central promise, through the whole pipeline: red when anything of the head reaches the mean."""
    result = json.loads((finished / "compare.json").read_text())
    differences = {(e["a"], e["b"], e["key"]): e for e in result["paired"]}
    for key in ("psnr", "ssim", "delta_e2000", "rate_bpd"):
        assert differences["faithful", "shared", key]["difference"] == 0.0
    assert differences["nll", "shared", "psnr"]["difference"] != 0.0


def test_a_finished_comparison_trains_nothing_again(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.glob(f"runs/*/{EVALUATION}")}
    assert len(before) == 3
    assert run(command(finished, 6)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_other_settings_are_refused(finished, capsys):
    assert run(command(finished, 7)) == 2
    assert "steps was 6 and is 7" in capsys.readouterr().err


def test_a_stopped_comparison_goes_on(tmp_path):
    """SIGTERM: exit 143 with the workers gone and their state saved; the same command then finishes."""
    long = command(tmp_path, 60, "shared")
    process = subprocess.Popen([sys.executable, "-m", "jeppa", *long], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "runs" / "shared-0" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 143
    assert "go on" in errors
    assert "Traceback" not in errors
    saved = (tmp_path / "runs" / "shared-0" / "latest").read_text()
    assert saved.startswith("step-")
    assert run(long) == 0
    assert (tmp_path / "compare.json").is_file()


def test_a_failing_run_stops_the_comparison_with_its_reason(tmp_path, capsys):
    folder = tmp_path / "runs" / "shared-0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("kind: nonsense\n")
    assert run(command(tmp_path, 6, "shared")) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "config.yaml" in line
    assert "shared-0" in line
