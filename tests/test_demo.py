"""The demo from end to end, with a few steps of everything; its real size is `make demo`."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from jeppa import demo
from jeppa.config import DenoiserConfig


def test_the_demo_writes_a_report_and_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Red when any random choice of the demo does not hang on its seed."""
    monkeypatch.setattr(demo, "VAE_STEPS", 4)
    monkeypatch.setattr(demo, "DIFFUSION_STEPS", 4)
    monkeypatch.setattr(demo, "DENOISER", DenoiserConfig(block_out_channels=(16, 16), attention=(False, True)))
    monkeypatch.setattr(demo, "VIEWS", 16)
    monkeypatch.setattr(demo, "SAMPLE_STEPS", (2, 3))
    console = Console(quiet=True)
    pages = [demo.run_demo(tmp_path / name, 0, console) for name in ("a", "b")]
    assert all(page.stat().st_size > 100_000 for page in pages)
    pictures = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(pictures) > 40
    assert [p for p in pictures if (tmp_path / "a" / p).read_bytes() != (tmp_path / "b" / p).read_bytes()] == []
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert {arm["arm"] for arm in report["arms"]} == {"faithful", "shared", "fixed"}


def test_faithful_and_shared_differ_in_sigma_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "VAE_STEPS", 4)
    clock, console = demo.Clock(tmp_path / "seconds.json"), Console(quiet=True)
    for arm in ("faithful", "shared"):
        demo._train_arm(arm, tmp_path, 0, console, clock)
    heldout = demo.open_source(demo.DATA, "heldout")
    found = {}
    for arm in ("faithful", "shared"):
        demo._evaluate(demo.load_model(tmp_path / f"vae-{arm}"), heldout)
        found[arm] = json.loads((tmp_path / f"vae-{arm}" / "metrics.json").read_text())
    assert found["faithful"]["psnr"] == found["shared"]["psnr"]
    assert found["faithful"]["chi2"] != found["shared"]["chi2"]
