"""Which basis suits the band likelihoods: the block DCT of JPEG, or the lapped orthogonal transform?

    python -m results.bands

Trains `band-faithful` for 300 steps on the training scenes of builtin:photos with each basis and measures held-out
scenes at 192 pixels. Encoder and mean are the same in both, so only the model of the residual differs. Writes
`bands.json` and `bands.md`.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from jeppa.config import PRESETS, Basis, DataConfig, VAERun
from jeppa.data import open_source
from jeppa.lab.demo import COLOUR_JITTER
from jeppa.lab.evaluate import evaluate
from results.record import (
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    list_numbers,
    run_study,
    save_record,
    seed_table,
    study_parser,
)
from results.short_runs import short_optimisation, train_vae

STEPS = 300
SEEDS = (0, 1, 2)
RESOLUTION = 192
BASES: tuple[Basis, ...] = ("dct", "lapped")
KEYS = ("elbo_bpd", "psnr", "gradient_energy_ratio_draw", "chi2")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run_study(study_parser("bands", __doc__), measure_bases, arguments)


def measure_bases(options: argparse.Namespace) -> None:
    """Train and measure with both bases, and write the record."""
    figures = {basis: [measure(basis, seed) for seed in SEEDS] for basis in BASES}
    save_record(options.command, options.out / "bands", {"steps": STEPS, "seeds": SEEDS, "bases": figures}, render)


def measure(basis: Basis, seed: int) -> dict[str, float | None]:
    """Figures of one VAE, trained for `STEPS` steps."""
    model = PRESETS["small"].model_copy(update={"basis": basis})
    config = VAERun(
        seed=seed, preset="small" if model == PRESETS["small"] else None, model=model, likelihood="band-faithful",
        data=DataConfig(colour_jitter=COLOUR_JITTER), optim=short_optimisation(STEPS),
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        vae = train_vae(config, Path(folder))
        heldout = open_source(config.data.data, "heldout")
        metrics = evaluate(vae, heldout, RESOLUTION, "bands", perceptual=False).metrics
    return {key: metrics[key] for key in KEYS}


def render(record: Json) -> str:
    """The record as Markdown."""
    return join_lines([
        "# Which basis for the band likelihoods",
        "",
        f"{describe_origin(record)}: `band-faithful`, {record['steps']} steps, seeds {list_numbers(record['seeds'])}, "
        f"five held-out scenes of `builtin:photos` at {RESOLUTION} pixels; {describe_machine(record)}. "
        "Mean over seeds [least, greatest].",
        "",
        seed_table("basis", record["bases"], {key: key for key in KEYS}),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
