"""What a trained VAE is worth beside an ordinary one of its size and budget, and beside JPEG and WebP at its bytes.

    python results/shipped_vae.py MODEL --peer PEER_MODEL --data DATA

MODEL and PEER_MODEL are run folders, the peer with the likelihood `fixed`; DATA is what `recipes/prepare.py` made.
Held-out groceries (the products that nothing was calibrated on) and emoji at 256 pixels, the held-out built-in
photographs at 512. Writes `results/shipped/NAME.json` and `NAME.md` under `--out`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from shipped.record import record, say
from shipped.vae_lines import lines
from shipped.vae_table import KEYS, table

from jeppa.config import load_run
from jeppa.data import open_source
from jeppa.data.images import LEVELS_PER_UNIT
from jeppa.lab.evaluate import Evaluation, evaluate, paired_differences
from jeppa.pipeline import Model, load_model
from jeppa.vae import FACTOR

ROOT = Path(__file__).parents[1]

Json = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return record("results/shipped_vae.py", _parser(), arguments, measure, table)


def measure(given: argparse.Namespace) -> Json:
    """All figures.

    Raises:
        JeppaError: a model or a picture cannot be used.
    """
    models = {"ours": load_model(given.model), "peer": load_model(given.peer)}
    places = {
        "grocery": (str(given.data / "halves"), 256),
        "photographs": ("builtin:photos", 512),
        "emoji": (str(given.data / "emoji"), 256),
    }
    return {
        "models": {name: about(model) for name, model in models.items()},
        "differing": differing(given.model, given.peer),
        "sets": {name: one_set(models, name, *place, given.limit) for name, place in places.items()},
    }


def one_set(models: dict[str, Model], name: str, data: str, side: int, limit: int | None) -> Json:
    """Both models, their differences picture by picture, and the codecs, on the held-out pictures of `data`."""
    source, found = open_source(data, "heldout"), {}
    for title, model in models.items():
        say(f"{name}: {title}")
        found[title] = evaluate(model.codec.vae, source, side, title, limit)
    say(f"{name}: codecs")
    codec = models["ours"].codec
    return {
        "resolution": side,
        "count": found["ours"].metrics["n_images"],
        "latent_bytes": codec.vae.config.latent_channels * (side // FACTOR) ** 2,
        "rate_bytes": {title: one.metrics["rate_bpd"] * 3 * side**2 / 8 for title, one in found.items()},
        "metrics": {title: one.metrics for title, one in found.items()},
        "peer_constant_bpd": constant_bpd(found["peer"]),
        "paired": {
            key: [one.mean, [one.lo, one.hi]]
            for key, one in paired_differences(found["ours"], found["peer"], KEYS).items()
        },
        "lines": lines(codec, source, side, limit),
    }


def constant_bpd(evaluation: Evaluation) -> float:
    """The bound, in bits a dimension, that a model would have with the one variance that suits these pictures best.

    `fixed` states a variance of 1, which no user of it would take for its error. Favours the model: the variance is
    that of the pictures measured, and the mean that of the posterior's mean and not of a draw.
    """
    error = np.mean([4.0 * 10.0 ** (-row["psnr"] / 10.0) for row in evaluation.rows])
    variance = error + 1.0 / (12.0 * LEVELS_PER_UNIT**2)  # that of dequantisation
    bits = 0.5 * np.log2(2.0 * np.pi * np.e * variance) + np.log2(LEVELS_PER_UNIT)
    return float(bits + evaluation.metrics["rate_bpd"])


def about(model: Model) -> Json:
    """What a model is, for the head of the table."""
    vae = model.codec.vae
    parameters = sum(one.numel() for one in vae.parameters())
    head = 0 if vae.sigma_head is None else sum(one.numel() for one in vae.sigma_head.parameters())
    return {"likelihood": vae.likelihood, "parameters without sigma head": parameters - head, "of its sigma head": head}


def differing(ours: Path, peer: Path) -> list[str]:
    """Settings in which two runs differ, `name: ours, peer`; nothing is known of exported folders."""
    files = [folder / "config.yaml" for folder in (ours, peer)]
    if not all(file.is_file() for file in files):
        return ["unknown, as one is not a run folder"]
    first, second = (_flat(load_run(file).model_dump(mode="json")) for file in files)
    return [f"{key} ({first.get(key)}, {second.get(key)})" for key in first if first[key] != second.get(key)]


def _flat(settings: Json, prefix: str = "") -> Json:
    found: Json = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a trained VAE beside its peer, JPEG and WebP.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder of the VAE")
    parser.add_argument("--peer", type=Path, required=True, help="run folder of the ordinary VAE")
    parser.add_argument("--data", type=Path, required=True, help="folder with grocery and emoji")
    parser.add_argument("--name", default="small", help="of the files that are written")
    parser.add_argument("--limit", type=int, help="at most that many pictures of each set")
    parser.add_argument("--out", type=Path, default=ROOT, help="root of the tree to write into")
    return parser


if __name__ == "__main__":
    sys.exit(main())
