"""What calibration is worth on held-out pictures, and what a curve mends that two numbers do not.

    python results/calibration.py small --data DATA

MODEL is a VAE with a sigma head; DATA is what `recipes/prepare.py` made. Every kind of pictures is calibrated on some
and judged on others: groceries by product, photographs by scene and emoji by code point (on the training pictures of
`small`). Writes `calibration.json` and `calibration.md` beside this file.
"""

import argparse
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jeppa.cli.flags import say
from jeppa.data import ImageSource, evaluation_images, open_source
from jeppa.lab.calibrate import calibrate
from jeppa.lab.calibration import chi2, coverage
from jeppa.lab.measure import fit_to_grid
from jeppa.lab.metrics import dequantise
from jeppa.lab.recalibrate import Sample, fit
from jeppa.lab.statistics import bootstrap_ence, bootstrap_mean, histogram
from jeppa.machine import commit, machine
from jeppa.pipeline import load_model
from jeppa.vae import HeteroscedasticVAE
from jeppa.vae.sigma_head import LOGVAR_RANGE, RisingCurve

HERE = Path(__file__).parent
MOST_IMAGES = 160
VALUES = 16384

Json = dict[str, Any]
Answers = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""Original, reconstruction and log-variance of each picture."""


def main() -> None:
    """Fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    kinds = {
        "groceries, 256": (given.data / "halves", 256),
        "photographs, 512": ("builtin:photos", 512),
        "emoji, 256": (given.data / "emoji", 256),
    }
    vae = load_model(given.model).codec.vae
    if vae.sigma_head is None:
        raise SystemExit("the model has one sigma for all pixels; give one with a sigma head")
    shipped = deepcopy(vae.sigma_head.curve)
    rows: Json = {}
    for kind, (data, side) in kinds.items():
        train, heldout = open_source(data, "train"), open_source(data, "heldout")
        calibrate(vae, [(train, side)])
        own = deepcopy(vae.sigma_head.curve)
        vae.sigma_head.curve.straighten()
        judging = answers(vae, heldout, side)
        curves = {
            "as trained": RisingCurve(*LOGVAR_RANGE),
            "two numbers": two_numbers(answers(vae, train, side), float(vae.shared_logvar)),
            "a curve": own,
            "a curve for groceries and photographs (shipped)": shipped,
        }
        rows[kind] = {name: judged(judging, curve) for name, curve in curves.items()}
        say(f"{kind}: {json.dumps(rows[kind])}")
    command = f"python results/calibration.py {given.model} --data DATA"
    record = {"command": command, "commit": commit(), "machine": machine(), "kinds": rows}
    (HERE / "calibration.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "calibration.md").write_text(table(record))


@torch.no_grad()
def answers(vae: HeteroscedasticVAE, source: ImageSource, side: int) -> Answers:
    """What the model answers for the first pictures of a source."""
    found = []
    for index, (_, x) in enumerate(evaluation_images(source, side)):
        if index == MOST_IMAGES:
            break
        x = fit_to_grid(x[None])
        decoded = vae.decode(vae.encode(x).mean)
        found.append((dequantise(x, torch.Generator().manual_seed(index)), decoded.mean, decoded.element_logvar))
    return found


def two_numbers(images: Answers, reference: float) -> RisingCurve:
    """Slope and offset of the log-variance, fitted by likelihood, as a curve."""
    samples = []
    for index, (x, mean, logvar) in enumerate(images):
        chosen = np.random.default_rng(index).permutation(x.numel())[:VALUES]
        squared = (x - mean).square().flatten()[chosen].double().numpy()
        samples.append(Sample(squared, logvar.flatten()[chosen].double().numpy()))
    curve, found = RisingCurve(*LOGVAR_RANGE), fit(samples, reference)
    curve.bend(curve.knots.clone(), torch.from_numpy(found(curve.knots.double().numpy())))
    return curve


def judged(images: Answers, curve: RisingCurve) -> Json:
    """Figures of the log-variance behind a curve, each with its 95 % interval over pictures."""
    histograms, shares, ratios = [], [], []
    for x, mean, logvar in images:
        curved, squared = curve(logvar).clamp(*LOGVAR_RANGE), (x - mean).square()
        histograms.append(histogram(curved, curved, squared, squared))
        shares.append(float(coverage(x, mean, curved, 0.9)))
        ratios.append(float(chi2(x, mean, curved)))
    found = {
        "ence": bootstrap_ence(np.stack(histograms)),
        "chi2": bootstrap_mean(np.array(ratios)),
        "coverage_90": bootstrap_mean(np.array(shares)),
    }
    return {"images": len(images), **{key: [one.mean, one.lo, one.hi] for key, one in found.items()}}


def table(record: Json) -> str:
    """Markdown: a row for every kind and way."""
    lines = [
        "# What calibration is worth",
        "",
        f"`{record['command']}` at commit {record['commit']}; {record['machine']['processor']}, fp32. Mean [95 %",
        "bootstrap interval over pictures]; below about 20 pictures the intervals are too narrow. ENCE: 0 is perfect;",
        "chi2: 1 is; an interval of 90 % should hold 0.900. Fitted on other pictures of the same kind.",
        "",
        "| held-out pictures | sigma | ENCE | chi2 | 90 % interval holds |",
        "|---|---|---|---|---|",
    ]
    for kind, ways in record["kinds"].items():
        for way, figures in ways.items():
            cells = [f"{figures['images']} {kind}", way]
            for key in ("ence", "chi2", "coverage_90"):
                mean, low, high = figures[key]
                cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
