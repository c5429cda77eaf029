"""Does the mean suffer from learning a variance? The faithful paper's comparison, in kind, on handwritten digits.

    python results/digits.py

Trains the `tiny` VAE on scikit-learn's 1,797 digits (8x8 pixels, one latent cell of four numbers each) with four
likelihoods and three seeds, and writes `digits.json` and `digits.md` beside this file. The paper (Stirn et al., arXiv
2212.09184) has on MNIST an RMSE of .759 for squared error, 2.27 for NLL, .850 for beta-NLL and .759 for faithful.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from jeppa.config import DataConfig, Likelihood, OptimConfig, VAERun
from jeppa.data import evaluation_images, open_source, to_x, write_png
from jeppa.machine import commit, machine
from jeppa.pipeline import load_model
from jeppa.train import VAEObjective, train

HERE = Path(__file__).parent
ARMS: tuple[Likelihood, ...] = ("shared", "nll", "beta-nll", "faithful")
SEEDS = (0, 1, 2)
STEPS = 500
BATCH = 64


def write_digits(folder: Path) -> None:
    """Every fifth digit to val/, the others to train/, grey as RGB."""
    for index, grey in enumerate(load_digits().images):
        part = folder / ("val" if index % 5 == 0 else "train")
        part.mkdir(exist_ok=True)
        levels = np.round(grey * 255.0 / 16.0).astype(np.uint8)
        write_png(to_x(np.repeat(levels[..., None], 3, axis=2)), part / f"{index:04d}.png")


def measure(arm: Likelihood, seed: int, data: Path, run: Path) -> dict[str, float]:
    """RMSE of the mean in grey levels and chi2 on held-out digits."""
    optim = OptimConfig(steps=STEPS, batch_size=BATCH, learning_rate=1e-3, ema_decay=0.99, sample_every=STEPS,
                        save_every=STEPS, precision="fp32")  # fmt: skip
    crops = DataConfig(data=str(data), resolution=8, sizes=1, flip=False)
    config = VAERun(seed=seed, preset="tiny", likelihood=arm, data=crops, optim=optim)
    for _ in train(VAEObjective(config), config, run):
        pass
    x = torch.stack([one for _, one in evaluation_images(open_source(data, "heldout"), None)])
    decoded = load_model(run).reconstruct(x)
    squared = (x - decoded.mean).square()
    return {"rmse_levels": 127.5 * float(squared.mean().sqrt()), "chi2": float((squared / decoded.var).mean())}


def main() -> None:
    """Train all arms and write the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "digits").mkdir()
        write_digits(folder / "digits")
        rows = {
            arm: [measure(arm, seed, folder / "digits", folder / f"{arm}-{seed}") for seed in SEEDS] for arm in ARMS
        }
    record = {"command": "python results/digits.py", "steps": STEPS, "seeds": SEEDS, "commit": commit(),
              "machine": machine(), "arms": rows}  # fmt: skip
    (HERE / "digits.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "digits.md").write_text(table(record))


def table(record: dict) -> str:
    """Markdown: the mean over seeds and, in brackets, the least and the greatest."""
    lines = [
        "# Digits: what a learned variance does to the mean",
        "",
        f"`{record['command']}` at commit {record['commit']}: `tiny`, {record['steps']} steps of {BATCH} digits, seeds "
        f"{', '.join(map(str, record['seeds']))}, beta 1, 360 held-out digits; {record['machine']['processor']}, "
        f"{record['machine']['cores']} cores, torch {torch.__version__}, fp32. Mean over seeds [least, greatest].",
        "",
        "| arm | RMSE of the mean, grey levels | chi2 |",
        "|---|---|---|",
    ]
    for arm, runs in record["arms"].items():
        cells = [[run[key] for run in runs] for key in ("rmse_levels", "chi2")]
        shown = [f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]" for values in cells]
        lines.append(f"| {arm} | " + " | ".join(shown) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
