"""How good is a trained VAE beside an ordinary one of its size and budget, and beside JPEG and WebP of as many bytes?

    python -m results.shipped.vae MODEL --peer PEER_MODEL --data DATA

MODEL and PEER_MODEL are run folders, the peer with the likelihood `fixed`; DATA is what `recipes/prepare.py` wrote.
Measures held-out groceries (products on which nothing was calibrated) and emoji at 256 pixels, and the held-out
built-in photographs at 512. Writes `NAME.json` and `NAME.md`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from jeppa.config import load_run
from jeppa.data import open_source
from jeppa.data.images import LEVELS_PER_UNIT
from jeppa.lab.evaluate import Evaluation, evaluate, paired_differences
from jeppa.pipeline import Model, load_model
from jeppa.vae import FACTOR
from results.record import RESULTS, Json, report_progress, run_study, save_record, study_parser
from results.shipped.codecs import measure_codecs
from results.shipped.vae_table import KEYS, render


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("shipped.vae", __doc__, RESULTS / "shipped")
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder of the VAE")
    parser.add_argument("--peer", type=Path, required=True, help="run folder of the ordinary VAE")
    parser.add_argument("--data", type=Path, required=True, help="folder that recipes/prepare.py wrote")
    parser.add_argument("--name", default="small", help="name of the files to write")
    parser.add_argument("--limit", type=int, help="at most so many pictures of each set")
    return run_study(parser, measure_models, arguments)


def measure_models(options: argparse.Namespace) -> None:
    """Measure both models and the codecs, and write the record.

    Raises:
        JeppaError: a model or a picture cannot be used.
    """
    models = {"ours": load_model(options.model), "peer": load_model(options.peer)}
    sources = {
        "grocery": (str(options.data / "halves"), 256),
        "photographs": ("builtin:photos", 512),
        "emoji": (str(options.data / "emoji"), 256),
    }
    figures = {
        "name": options.name,
        "models": {name: describe_model(model) for name, model in models.items()},
        "differing": list_differences(options.model, options.peer),
        "sets": {name: measure_set(models, name, *source, options.limit) for name, source in sources.items()},
    }
    save_record(options.command, options.out / options.name, figures, render)


def measure_set(models: dict[str, Model], name: str, data: str, side: int, limit: int | None) -> Json:
    """Both models, their differences for each picture, and the codecs, on the held-out pictures of `data`."""
    source, evaluations = open_source(data, "heldout"), {}
    for title, model in models.items():
        report_progress(f"{name}: {title}")
        evaluations[title] = evaluate(model.codec.vae, source, side, title, limit)
    report_progress(f"{name}: codecs")
    codec = models["ours"].codec
    return {
        "resolution": side,
        "count": evaluations["ours"].metrics["n_images"],
        "latent_bytes": codec.vae.config.latent_channels * (side // FACTOR) ** 2,
        "rate_bytes": {title: found.metrics["rate_bpd"] * 3 * side**2 / 8 for title, found in evaluations.items()},
        "metrics": {title: found.metrics for title, found in evaluations.items()},
        "peer_constant_bpd": bound_constant(evaluations["peer"]),
        "paired": {
            key: [difference.mean, [difference.lo, difference.hi]]
            for key, difference in paired_differences(evaluations["ours"], evaluations["peer"], KEYS).items()
        },
        "lines": measure_codecs(codec, source, side, limit),
    }


def bound_constant(evaluation: Evaluation) -> float:
    """The bound, in bits a dimension, that a model would have with the one variance that suits these pictures best.

    `fixed` states a variance of 1, which nobody would take for its error. The bound favours the model: its variance is
    fitted to the pictures that are measured, and it decodes the mean of the posterior instead of a draw.
    """
    error = np.mean([4.0 * 10.0 ** (-row["psnr"] / 10.0) for row in evaluation.rows])
    variance = error + 1.0 / (12.0 * LEVELS_PER_UNIT**2)  # that of dequantisation
    bits = 0.5 * np.log2(2.0 * np.pi * np.e * variance) + np.log2(LEVELS_PER_UNIT)
    return float(bits + evaluation.metrics["rate_bpd"])


def describe_model(model: Model) -> Json:
    """Likelihood and number of parameters, for the first table."""
    vae = model.codec.vae
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    head = 0 if vae.sigma_head is None else sum(parameter.numel() for parameter in vae.sigma_head.parameters())
    return {"likelihood": vae.likelihood, "parameters without sigma head": parameters - head, "of its sigma head": head}


def list_differences(ours: Path, peer: Path) -> list[str]:
    """Settings in which two runs differ, as `name (ours, peer)`; nothing is known of exported folders."""
    files = [folder / "config.yaml" for folder in (ours, peer)]
    if not all(file.is_file() for file in files):
        return ["unknown, as one is not a run folder"]
    first, second = (flatten(load_run(file).model_dump(mode="json")) for file in files)
    return [f"{key} ({first.get(key)}, {second.get(key)})" for key in first if first[key] != second.get(key)]


def flatten(settings: Json, prefix: str = "") -> Json:
    """Nested settings under names with dots."""
    flat: Json = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


if __name__ == "__main__":
    sys.exit(main())
