"""What does the variance contribute where the right answer is known?

    python -m results.oracle

Samples a mixture of eight Gaussians on a circle, with the exact E[x0|zt] and Var[x0|zt] and with those of a small net
that is trained here, and measures the squared MMD to fresh data at few and many steps. Takes seven minutes on one core.
Writes `oracle.json` and `oracle.md`.
"""

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from jeppa.diffusion import DDIM, Denoise, add_noise, generators_for, initial_noise, sample_ddim
from results.oracle.circle import (
    BARS,
    BATCH,
    SCHEDULE,
    TRAIN_STEPS,
    Circle,
    Net,
    as_latent,
    combine,
    predict_exactly,
    train_net,
)
from results.oracle.table import Runs, render
from results.record import run_study, save_record, study_parser

DEVIATIONS = (0.3, 0.1)
STEPS = (4, 6, 8, 10, 15, 25, 50)
SEEDS = tuple(range(16))
SAMPLES = 4000
BANDWIDTHS = (0.25, 0.5, 1.0)
TIMESTEPS = (49, 149, 299, 499, 699, 849, 949, 999)
WAYS: dict[str, Callable[[int], DDIM]] = {
    "plain": lambda steps: DDIM(steps),
    "eta 1": lambda steps: DDIM(steps, 1.0),
    "optimal": lambda steps: DDIM(steps, temperature=1.0, last=True),
    "without last draw": lambda steps: DDIM(steps, temperature=1.0),
}


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run_study(study_parser("oracle", __doc__), measure_circles, arguments)


def measure_circles(options: argparse.Namespace) -> None:
    """Measure everything and write the record."""
    torch.set_num_threads(1)
    circles = {f"s = {deviation}": Circle(deviation) for deviation in DEVIATIONS}
    runs: dict[str, Runs] = {}
    floors = {}
    for name, data in circles.items():
        exact = predict_exactly(data)
        runs[name], floors[name] = measure(data, {way: (exact, settings) for way, settings in WAYS.items()})
    first, data = next(iter(circles.items()))
    net, exact = train_net(data), predict_exactly(data)
    learned, _ = measure(data, {
        "exact mean, trained variance": (combine(exact, net), WAYS["optimal"]),
        "trained mean and variance": (net, WAYS["optimal"]),
        "trained mean, plain": (net, WAYS["plain"]),
    })  # fmt: skip
    runs["trained"] = {"exact mean and variance": runs[first]["optimal"], **learned}
    figures = {
        "seeds": SEEDS, "steps": STEPS, "samples": SAMPLES, "bandwidths": BANDWIDTHS, "train_steps": TRAIN_STEPS,
        "batch": BATCH, "squared_mmd": runs, "data_to_data": floors, "variance": compare_variances(data, net),
    }  # fmt: skip
    save_record(options.command, options.out / "oracle", figures, render)


def sample(denoise: Denoise, settings: DDIM, seed: int) -> Tensor:
    """Points `[SAMPLES,2]` of our sampler."""
    generators = generators_for([seed])
    *_, last = sample_ddim(denoise, initial_noise((2, SAMPLES, 1), generators), SCHEDULE, settings, generators)
    return last.zt[0, :, :, 0].T


def sum_kernels(x: Tensor, y: Tensor) -> float:
    """Sum over all pairs of the RBF kernels; halving a bandwidth raises its kernel to the fourth power."""
    total = 0.0
    for rows in x.split(100):
        square = torch.addmm(y.square().sum(1), rows, y.T, alpha=-2.0).add_(rows.square().sum(1)[:, None])
        kernel = square.clamp_(min=0.0).mul_(-0.5 / BANDWIDTHS[-1] ** 2).exp_()
        total += float(kernel.sum())
        for _ in BANDWIDTHS[1:]:
            total += float(kernel.square_().square_().sum())
    return total


def estimate_mmd(x: Tensor, y: Tensor, within_y: float) -> float:
    """Squared MMD, unbiased: equal distributions give 0 on average (Gretton et al., JMLR 2012, eq. 3).

    Args:
        x: points `[N,2]`.
        y: points `[M,2]`.
        within_y: `sum_kernels(y, y)`, which several x have in common.
    """
    n, m = len(x), len(y)
    within = sum((total - 3 * k) / (k * (k - 1)) for total, k in ((sum_kernels(x, x), n), (within_y, m)))
    return within - 2.0 * sum_kernels(x, y) / (n * m)


def measure(data: Circle, ways: dict[str, tuple[Denoise, Callable[[int], DDIM]]]) -> tuple[Runs, list[float]]:
    """Squared MMD of each way, and that of data to data for each seed."""
    runs: Runs = {name: [[] for _ in STEPS] for name in ways}
    floor = []
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(1000 + seed)
        fresh, other = data.draw(SAMPLES, generator), data.draw(SAMPLES, generator)
        within = sum_kernels(fresh, fresh)
        floor.append(estimate_mmd(other, fresh, within))
        for name, (denoise, settings) in ways.items():
            for place, steps in enumerate(STEPS):
                runs[name][place].append(estimate_mmd(sample(denoise, settings(steps), seed), fresh, within))
    return runs, floor


@torch.no_grad()
def compare_variances(data: Circle, net: Net) -> list[dict[str, float]]:
    """Trained against exact Var[x0|zt] at some timesteps: means over zt, errors over the mean of the exact one."""
    generator = torch.Generator().manual_seed(7)
    rows = []
    for t in TIMESTEPS:
        x0 = data.draw(20_000, generator)
        zt = add_noise(x0, torch.randn(x0.shape, generator=generator), BARS[t])
        exact = data.posterior(zt, BARS[t])[1]
        learned = net(as_latent(zt), torch.tensor([t])).x0_variance(float(BARS[t]))
        difference = learned[0, :, :, 0].T - exact
        bias, error = (float(part.mean() / exact.mean()) for part in (difference, difference.abs()))
        rows.append({"t": t, "exact": float(exact.mean()), "largest": float(exact.max()), "bias": bias, "error": error})
    return rows


if __name__ == "__main__":
    sys.exit(main())
