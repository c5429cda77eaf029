"""Which basis for the band likelihoods: the block DCT of JPEG or the lapped orthogonal transform?

    python results/bands.py

Trains `band-faithful` for 300 steps on the training scenes of builtin:photos with either basis, measures
on held-out scenes at 192 pixels, and writes `bands.json` and `bands.md` beside this file. Encoder and mean are the
same in both, so only the residual's model differs.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from jeppa.config import PRESETS, Basis, DataConfig, OptimConfig, VAERun
from jeppa.data import open_source
from jeppa.lab.demo import COLOUR_JITTER
from jeppa.lab.evaluate import evaluate
from jeppa.machine import commit, machine
from jeppa.pipeline import load_model
from jeppa.train import VAEObjective, train

HERE = Path(__file__).parent
STEPS = 300
SEEDS = (0, 1, 2)
RESOLUTION = 192
BASES: tuple[Basis, ...] = ("dct", "lapped")
KEYS = ("elbo_bpd", "psnr", "gradient_energy_ratio_draw", "chi2")


def measure(basis: Basis, seed: int) -> dict[str, float]:
    """Train one VAE and measure it."""
    optim = OptimConfig(steps=STEPS, batch_size=8, ema_decay=0.99, sample_every=STEPS, save_every=STEPS)
    model = PRESETS["small"].model_copy(update={"basis": basis})
    preset = "small" if model == PRESETS["small"] else None
    data = DataConfig(colour_jitter=COLOUR_JITTER)
    config = VAERun(seed=seed, preset=preset, model=model, likelihood="band-faithful", data=data, optim=optim)
    with tempfile.TemporaryDirectory() as folder:
        for _ in train(VAEObjective(config), config, Path(folder)):
            pass
        vae = load_model(Path(folder)).codec.vae
        source = open_source(data.data, "heldout")
        found = evaluate(vae, source, RESOLUTION, "bands", perceptual=False).metrics
    return {key: found[key] for key in KEYS}


def main() -> None:
    """Train all and write the table."""
    rows = {basis: [measure(basis, seed) for seed in SEEDS] for basis in BASES}
    record = {"command": "python results/bands.py", "steps": STEPS, "seeds": SEEDS, "commit": commit(),
              "machine": machine(), "bases": rows}  # fmt: skip
    (HERE / "bands.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "bands.md").write_text(table(record))


def table(record: dict) -> str:
    """Markdown: the mean over seeds and, in brackets, the least and the greatest."""
    lines = [
        "# Which basis for the band likelihoods",
        "",
        f"`{record['command']}` at commit {record['commit']}: `band-faithful`, {record['steps']} steps, seeds "
        f"{', '.join(map(str, record['seeds']))}, five held-out scenes of `builtin:photos` at {RESOLUTION} pixels; "
        f"{record['machine']['processor']}, {record['machine']['cores']} cores, torch {torch.__version__}. "
        "Mean over seeds [least, greatest].",
        "",
        "| basis | " + " | ".join(KEYS) + " |",
        "|---|" + "---|" * len(KEYS),
    ]
    for basis, runs in record["bases"].items():
        columns = [[run[key] for run in runs] for key in KEYS]
        cells = [f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]" for values in columns]
        lines.append(f"| {basis} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
