"""How soon does the studio show its first picture, and what does it cost to watch samples form?

    python -m results.studio [--runs 5]

The start is that of `jeppa studio` with its page opened in Chromium as soon as it answers: seconds until the first
photograph is on the screen, and until its reconstruction is. The cost of watching is asked of the studio itself: the
time of `generate` with previews, and with none, in turns. Previews go through an affine decoder; how near it comes to
the real one is told as correlations at every step. Writes `studio.json` and `studio.md`.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from fastapi.testclient import TestClient
from playwright.sync_api import sync_playwright
from torch.nn import functional as F

from jeppa.config import SamplerSettings
from jeppa.errors import ConfigError
from jeppa.pipeline import load_model
from jeppa.pipeline.drawing import rough_decoder
from jeppa.pipeline.model import preview
from jeppa.shipped import SHIPPED
from jeppa.studio.models import Models
from jeppa.studio.server import make_app
from results.record import (
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    markdown_table,
    run_study,
    save_record,
    show_range,
    study_parser,
)

PORT = 7999
STEPS = 25
COUNTS = (1, 4, 16)
SEED = 0
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
SHOWN = """(kind) => { const found = document.querySelector(`#look-viewer ${kind}`);
return found && found.complete && found.naturalWidth > 0; }"""


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("studio", __doc__)
    parser.add_argument("--runs", type=int, default=5, help="starts, and turns of each number of pictures")
    return run_study(parser, measure_studio, arguments)


def measure_studio(options: argparse.Namespace) -> None:
    """Start the studio and watch it, and write the record."""
    starts = [time_start() for _ in range(options.runs)]
    name = next(model.name for model in SHIPPED if model.kind == "denoiser")
    figures: Json = {
        "runs": options.runs,
        "steps": STEPS,
        "seed": SEED,
        "model": name,
        "first_picture": [first for first, _ in starts],
        "reconstruction": [second for _, second in starts],
        "watching": [time_watching(name, count, options.runs) for count in COUNTS],
        "agreement": compare_decoders(name),
    }
    save_record(options.command, options.out / "studio", figures, render)


def time_start() -> tuple[float, float]:
    """Seconds from the command to the first photograph, and to its reconstruction."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise ConfigError("this study needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        began = time.monotonic()
        studio = subprocess.Popen([sys.executable, "-m", "jeppa", "studio"], stdout=subprocess.PIPE, text=True)
        assert studio.stdout is not None
        page.goto(studio.stdout.readline().split()[1] + "en/", timeout=120_000)
        page.wait_for_function(SHOWN, arg="img", timeout=120_000)
        first = time.monotonic() - began
        page.wait_for_function(SHOWN, arg=".jp-top", timeout=120_000)
        second = time.monotonic() - began
        browser.close()
        studio.terminate()
        studio.wait(30)
    return first, second


@contextlib.contextmanager
def studio_client() -> Iterator[Any]:
    """A client of the application within this process."""
    origin = f"http://127.0.0.1:{PORT}"
    with TestClient(make_app(Models(), PORT), base_url=origin) as client:
        yield client


def time_watching(name: str, count: int, runs: int) -> Json:
    """Ratios of the time of `generate` with previews to that without, turn by turn, and the previews of each turn."""
    ratios, shown, plain = [], [], []
    with studio_client() as client:
        ask(client, name, count, "fit")
        for _ in range(runs):
            without, _ = ask(client, name, count, "none")
            watched, previews = ask(client, name, count, "fit")
            ratios.append(watched / without)
            plain.append(without)
            shown.append(previews)
    return {"pictures": count, "ratios": ratios, "previews": shown, "seconds": statistics.median(plain)}


def ask(client: Any, name: str, count: int, watch: str) -> tuple[float, int]:
    """Generate through the studio's API; returns seconds and the number of previews."""
    values = [name, "", SEED, STEPS, 0, 1, "learned", 1, count, 1, 0, watch]
    began = time.perf_counter()
    event = client.post("/en/gradio_api/call/generate", json={"data": values}).json()["event_id"]
    answer = client.get(f"/en/gradio_api/call/generate/{event}").text
    seconds = time.perf_counter() - began
    told = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: [")]
    return seconds, sum(bool(isinstance(one[0], dict) and one[0].get("pictures")) for one in told)


def compare_decoders(name: str) -> list[Json]:
    """Correlation of the affine decoder with the real one at every step: of estimates, and of sigma cell by cell."""
    model = load_model(name, "exact")
    rough = rough_decoder(model.codec)
    rows = []
    for number, step in enumerate(
        model.sample(range(SEED, SEED + 8), SamplerSettings(steps=STEPS, variance="learned"))
    ):
        real = preview(model.codec, step)
        assert real.sigma is not None
        assert step.x0_variance is not None
        sigma = F.avg_pool2d(real.sigma.square().mean(1, keepdim=True), 8).sqrt()
        pairs = ((rough.mean(step.x0), real.estimate), (rough.sigma(step.x0, step.x0_variance), sigma))
        estimate, deviation = (float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) for a, b in pairs)
        rows.append({"step": number + 1, "estimate": estimate, "sigma": deviation})
    return rows


def render(record: Json) -> str:
    """The tables, from the record alone."""
    start = [
        ("first photograph", show_range(record["first_picture"], ".1f")),
        ("its reconstruction with sigma", show_range(record["reconstruction"], ".1f")),
    ]
    watching = [
        (one["pictures"], f"{one['seconds']:.2f}", show_range(one["ratios"], ".2f"), show_range(one["previews"], ".0f"))
        for one in record["watching"]
    ]
    steps = record["agreement"]
    some = [steps[at] for at in sorted({0, len(steps) // 4, len(steps) // 2, 3 * len(steps) // 4, len(steps) - 1})]
    agreement = [(one["step"], f"{one['estimate']:.3f}", f"{one['sigma']:.3f}") for one in some]
    return join_lines([
        "# The studio: its start, and the cost of watching", "",
        f"{describe_origin(record)}. {describe_machine(record)}. Seed {record['seed']}, {record['runs']} runs; "
        "mean, least and greatest value.", "",
        "## Seconds from the command to the screen of Chromium", "",
        markdown_table(["what", "seconds"], start), "",
        f"## {record['steps']} steps of `{record['model']}`, watched, over the same unwatched", "",
        markdown_table(["pictures", "seconds unwatched", "ratio", "previews shown"], watching), "",
        "## Correlation of the previews' affine decoder with the real one", "",
        markdown_table(["step", "estimate", "sigma"], agreement),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
