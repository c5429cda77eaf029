"""The demo from end to end, with a few steps of everything; its real size is `make demo`."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from jeppa.lab import demo
from jeppa.lab.contract import Report

SECTIONS = ("reconstructions", "calibration", "training", "samples", "numbers")


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "TUNING_STEPS", 4)
    monkeypatch.setattr(demo, "FIRST_STEPS", 2)
    monkeypatch.setattr(demo, "SAMPLE_STEPS", (2, 3))


@pytest.mark.usefixtures("few_steps")
def test_the_demo_writes_a_report_of_both_models(tmp_path: Path):
    """Red when tuning starts from noise, the shipped model is measured in its place, or a section is lost."""
    page = demo.run_demo(tmp_path, 0, Console(quiet=True))
    assert page.stat().st_size > 100_000
    assert (tmp_path / demo.FIRST).is_file()
    assert (tmp_path / demo.FIRST_SAMPLES).is_file()
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == set(Report.model_fields) - {"diffusion"}  # the demo trains no denoiser
    assert [name for name in SECTIONS if f'id="{name}"' not in page.read_text(encoding="utf-8")] == []
    assert [arm["arm"] for arm in report["arms"]] == [report["leading"], demo.SHIPPED] == [demo.TUNED, demo.SHIPPED]
    found = {arm: json.loads((tmp_path / arm / "metrics.json").read_text()) for arm in (demo.TUNED, demo.SHIPPED)}
    assert found["tuned"]["psnr"] != found["shipped"]["psnr"]
    assert found["tuned"]["psnr"] > found["shipped"]["psnr"] - 1.0
    assert found["tuned"]["ence"] < found["shipped"]["ence"]
    difference = found["tuned"]["psnr"] - found["shipped"]["psnr"]
    assert report["paired"]["psnr"][0] == pytest.approx(difference, abs=2e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_the_demo_repeats_itself(tmp_path: Path):
    """Red when any random choice of the demo does not hang on its seed."""
    for name in ("a", "b"):
        demo.run_demo(tmp_path / name, 0, Console(quiet=True))
    pictures = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(pictures) > 40
    assert [p for p in pictures if (tmp_path / "a" / p).read_bytes() != (tmp_path / "b" / p).read_bytes()] == []
