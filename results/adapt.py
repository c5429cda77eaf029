"""What `jeppa adapt` gives a VAE that has one sigma: python -m results.adapt --photos DIR

The VAE is the AutoencoderKL of the shipped `small`, taken as a stranger's: its folder alone, without a sigma head. It
is adapted on the training photographs and measured on others, in three states: with one sigma for all pixels, fitted on
the pictures that sigma is calibrated on later; with the trained head; and with the head calibrated. Latents and
reconstructions are compared bit for bit before and after. The differences are paired by picture.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from jeppa.cli import run
from jeppa.data import ImageSource, evaluation_images, open_source
from jeppa.errors import DataError
from jeppa.lab.evaluate import Evaluation, evaluate, paired_differences
from jeppa.pipeline import load_model
from jeppa.shipped import find_shipped
from jeppa.vae import HeteroscedasticVAE, load_vae
from results.record import (
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    markdown_table,
    run_study,
    save_record,
    show_interval,
    study_parser,
)

STEPS = 200
RESOLUTION = 256
PICTURES = 24
"""Most pictures to measure on."""
CALIBRATION = 32
"""Most pictures to fit the one sigma on."""
KEYS = {
    "psnr": "PSNR, dB", "distortion_bpd": "NLL, bits per dimension", "ence": "ENCE", "chi2": "chi2",
    "coverage_90": "share in the 90 % interval", "ause": "AUSE", "ause_sobel": "AUSE of an edge detector",
}  # fmt: skip
PAIRED = ("distortion_bpd",)
STATES = ("one sigma", "head", "calibrated")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("adapt", __doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the head; {STEPS} for the record")
    return run_study(parser, adapt_and_measure, arguments)


def adapt_and_measure(options: argparse.Namespace) -> None:
    """Adapt, measure the three states, and write the record."""
    shipped = find_shipped("small")
    assert shipped is not None
    given, _ = load_vae(shipped.vae / "vae")
    with tempfile.TemporaryDirectory() as folder:
        out, train = Path(folder) / "run", options.photos / "train"
        began = time.perf_counter()
        words = ["--vae", shipped.vae / "vae", "--data", train, "--out", out, "--steps", options.steps]
        if run(["adapt", *map(str, words), "--calibrate-at", str(RESOLUTION), "--precision", "exact"]):
            raise DataError(f"{train}: adapt failed, see above")
        seconds = time.perf_counter() - began
        states = dict(zip(STATES, _states(given, load_model(out).codec.vae, train), strict=True))
    heldout = open_source(str(options.photos / "val"), "all")
    measured = {
        name: evaluate(vae, heldout, RESOLUTION, name, limit=PICTURES, perceptual=False) for name, vae in states.items()
    }
    figures = {
        "steps": options.steps, "resolution": RESOLUTION, "images": measured[STATES[0]].metrics["n_images"],
        "seconds": round(seconds), "identical": _is_identical(given, states["calibrated"], heldout),
        "states": {name: _figures(evaluation) for name, evaluation in measured.items()},
        "paired": {name: _differences(measured[name], measured[STATES[0]]) for name in STATES[1:]},
    }  # fmt: skip
    save_record(options.command, options.out / "adapt", figures, render)


def _states(
    given: HeteroscedasticVAE, adapted: HeteroscedasticVAE, train: Path
) -> tuple[HeteroscedasticVAE, HeteroscedasticVAE, HeteroscedasticVAE]:
    """The VAE with one sigma, with the head as it was trained, and with the head calibrated."""
    shared, head = (HeteroscedasticVAE(given.settings, kind).eval() for kind in ("shared", "faithful"))
    shared.vae.load_state_dict(given.vae.state_dict())
    source = open_source(str(train), "heldout")
    shared.mean_square.fill_(_mean_square(given, replace(source, refs=source.refs[:: -(-len(source) // CALIBRATION)])))
    head.load_state_dict(adapted.state_dict())
    assert head.sigma_head is not None
    head.sigma_head.curve.straighten()
    return shared, head, adapted


@torch.no_grad()
def _mean_square(vae: HeteroscedasticVAE, source: ImageSource) -> float:
    """Mean squared error of the reconstructions of a source."""
    pictures = [x[None] for _, x in evaluation_images(source, RESOLUTION)]
    return float(torch.stack([(vae.reconstruct(x).mean - x).square().mean() for x in pictures]).mean())


@torch.no_grad()
def _is_identical(before: HeteroscedasticVAE, after: HeteroscedasticVAE, source: ImageSource) -> bool:
    """Whether the first pictures have the same latents and reconstructions to the last bit."""
    for _, x in evaluation_images(replace(source, refs=source.refs[:4]), RESOLUTION):
        z = before.encode(x[None]).mean
        same = torch.equal(z, after.encode(x[None]).mean) and torch.equal(before.decode(z).mean, after.decode(z).mean)
        if not same:
            return False
    return True


def _figures(evaluation: Evaluation) -> Json:
    metrics = evaluation.metrics
    return {key: {"mean": metrics[key], "ci95": metrics[f"{key}_ci95"]} for key in KEYS}


def _differences(evaluation: Evaluation, reference: Evaluation) -> Json:
    found = paired_differences(evaluation, reference, PAIRED)
    return {key: {"mean": value.mean, "ci95": [value.lo, value.hi]} for key, value in found.items()}


def render(record: Json) -> str:
    """The record as Markdown."""
    states = record["states"]
    rows = [
        [title, *(show_interval(states[name][key]["mean"], states[name][key]["ci95"]) for name in STATES)]
        for key, title in KEYS.items()
    ]
    gains = [
        f"{name}: {show_interval(difference['distortion_bpd']['mean'], difference['distortion_bpd']['ci95'])}"
        for name, difference in record["paired"].items()
    ]
    identical = "the same to the last bit" if record["identical"] else "NOT the same"
    return join_lines([
        "# A sigma head for a VAE that has none",
        "",
        f"{describe_origin(record)}: {record['steps']} steps, {record['seconds']} s with one thread; measured on "
        f"{record['images']} held-out photographs at {record['resolution']} pixels; {describe_machine(record)}. "
        "Mean [95 % interval over pictures].",
        "",
        markdown_table(["", *STATES], rows),
        "",
        f"Difference in NLL to one sigma, paired by picture: {'; '.join(gains)}.",
        "",
        f"Latents and reconstructions before and after: {identical}.",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
