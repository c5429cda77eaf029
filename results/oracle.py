"""What is the variance worth where the right answer is known?

    python results/oracle.py

Samples a mixture of eight Gaussians on a circle with the exact E[x0|zt] and Var[x0|zt], and with those of a small net
trained here, and writes `oracle.json` and `oracle.md` beside this file: the squared MMD to fresh data at few and many
steps. Four minutes on one core.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from jeppa.demo import machine
from jeppa.diffusion import (
    DDIM,
    Denoise,
    Prediction,
    add_noise,
    alpha_bars,
    denoising_loss,
    generators_for,
    initial_noise,
    make_scheduler,
    sample_ddim,
    sample_timesteps,
)
from jeppa.evaluate import commit

HERE = Path(__file__).parent
SCHEDULE = make_scheduler()
BARS = alpha_bars(SCHEDULE)
DEVIATIONS = (0.3, 0.1)
STEPS = (4, 6, 8, 10, 15, 25, 50)
SEEDS = tuple(range(8))
SAMPLES = 4000
BANDWIDTHS = (0.25, 0.5, 1.0)
TIMESTEPS = (49, 149, 299, 499, 699, 849, 949, 999)
TRAIN_STEPS, BATCH, RATE, WIDTH = 20_000, 512, 2e-3, 128
WAYS: dict[str, Callable[[int], DDIM]] = {
    "plain": lambda steps: DDIM(steps),
    "eta 1": lambda steps: DDIM(steps, 1.0),
    "optimal": lambda steps: DDIM(steps, temperature=1.0, last=True),
    "without last draw": lambda steps: DDIM(steps, temperature=1.0),
}
Runs = dict[str, list[list[float]]]


@dataclass(frozen=True)
class Circle:
    """Eight Gaussians of equal weight and deviation on a circle, each coordinate of variance 1."""

    deviation: float

    def centres(self) -> Tensor:
        """The means, float64 `[8,2]`."""
        angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
        return math.sqrt(2.0 * (1.0 - self.deviation**2)) * torch.stack([angles.cos(), angles.sin()], 1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Fresh data `[count,2]`."""
        chosen = self.centres()[torch.randint(8, (count,), generator=generator)]
        return (chosen + self.deviation * torch.randn(count, 2, generator=generator)).float()

    def posterior(self, zt: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """E[x0|zt] and the diagonal of Var[x0|zt], float64 `[N,2]`, at one alpha_bar."""
        signal, total = a.sqrt(), a * self.deviation**2 + 1.0 - a
        off = zt.double()[:, None] - signal * self.centres()
        weight = (-off.square().sum(2) / (2.0 * total)).softmax(1)[..., None]
        means = self.centres() + self.deviation**2 * signal / total * off
        mean = (weight * means).sum(1)
        spread = (weight * (means - mean[:, None]).square()).sum(1)
        return mean, spread + self.deviation**2 * (1.0 - a) / total


class Net(nn.Module):
    """Mean of v from a small net, and its logvar from a head that sees only detached features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _layers(2 + 16, WIDTH, WIDTH, WIDTH)
        self.mean = nn.Linear(WIDTH, 2)
        self.head = nn.Sequential(_layers(WIDTH + 4 + 16, WIDTH, WIDTH), nn.Linear(WIDTH, 2))
        nn.init.zeros_(self.head[1].weight)

    def forward(self, zt: Tensor, t: Tensor) -> Prediction:
        """For latents `[B,2,h,w]`, every place by itself."""
        places = zt.movedim(1, -1)
        angle = BARS[t].sqrt().acos().float()[:, None] * torch.arange(1, 9)
        time = torch.cat([angle.cos(), angle.sin()], 1)[:, None, None].expand(*places.shape[:3], 16)
        features = self.body(torch.cat([places, time], -1))
        mean = self.mean(features)
        logvar = self.head(torch.cat([features.detach(), places, mean.detach(), time], -1))
        return Prediction(mean.movedim(-1, 1), logvar.movedim(-1, 1).clamp(-14.0, 4.0))


def _layers(*widths: int) -> nn.Sequential:
    pairs = zip(widths, widths[1:], strict=False)
    return nn.Sequential(*(layer for pair in pairs for layer in (nn.Linear(*pair), nn.SiLU())))


def exact(data: Circle) -> Denoise:
    """The right v and its logvar; each place of the one latent `[1,2,N,1]` is a point of its own."""

    def denoise(zt: Tensor, t: Tensor) -> Prediction:
        a = BARS[t[0]]
        points = zt[0, :, :, 0].T
        mean, variance = data.posterior(points, a)
        v = (a.sqrt() * points - mean) / (1.0 - a).sqrt()
        both = (v, (variance / (1.0 - a)).log())
        return Prediction(*(part.T[None, :, :, None].float() for part in both))

    return denoise


def mixed(mean: Denoise, variance: Denoise) -> Denoise:
    """The mean of one and the variance of another."""
    return lambda zt, t: Prediction(mean(zt, t).mean, variance(zt, t).logvar)


def trained(data: Circle) -> Net:
    """A net trained with the library's loss."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TRAIN_STEPS)
    for _ in range(TRAIN_STEPS):
        z0 = data.draw(BATCH, generator)[..., None, None]
        noise = torch.randn(z0.shape, generator=generator)
        t = sample_timesteps(BATCH, len(BARS), generator)
        terms = denoising_loss(net, z0, t, noise, BARS)
        optimizer.zero_grad()
        (terms["mse"] + terms["variance_nll"]).mean().backward()
        optimizer.step()
        decay.step()
    return net.eval().requires_grad_(False)


def sample(denoise: Denoise, settings: DDIM, seed: int) -> Tensor:
    """Points `[SAMPLES,2]` of our sampler."""
    generators = generators_for([seed])
    *_, last = sample_ddim(denoise, initial_noise((2, SAMPLES, 1), generators), SCHEDULE, settings, generators)
    return last.zt[0, :, :, 0].T


def kernel_sum(x: Tensor, y: Tensor) -> float:
    """Sum over all pairs of the three RBF kernels; a bandwidth's half is its fourth power."""
    total = 0.0
    for rows in x.split(500):
        square = (rows.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * rows @ y.T).clamp_(min=0.0)
        wide = square.mul_(-0.5).exp_()
        middle = wide**4
        total += float((wide + middle + middle**4).sum(dtype=torch.float64))
    return total


def squared_mmd(x: Tensor, y: Tensor, within_y: float) -> float:
    """Unbiased, so that equal distributions give 0 on average (Gretton et al., JMLR 2012, eq. 3)."""
    n, m = len(x), len(y)
    within = sum((total - 3 * k) / (k * (k - 1)) for total, k in ((kernel_sum(x, x), n), (within_y, m)))
    return within - 2.0 * kernel_sum(x, y) / (n * m)


def measure(data: Circle, ways: dict[str, tuple[Denoise, Callable[[int], DDIM]]]) -> tuple[Runs, list[float]]:
    """Squared MMD of each way, one list over seeds for each step count, and that of data to data."""
    found: Runs = {name: [[] for _ in STEPS] for name in ways}
    floor = []
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(1000 + seed)
        fresh, other = data.draw(SAMPLES, generator), data.draw(SAMPLES, generator)
        within = kernel_sum(fresh, fresh)
        floor.append(squared_mmd(other, fresh, within))
        for name, (denoise, settings) in ways.items():
            for place, steps in enumerate(STEPS):
                found[name][place].append(squared_mmd(sample(denoise, settings(steps), seed), fresh, within))
    return found, floor


@torch.no_grad()
def variance_errors(data: Circle, net: Net) -> list[dict[str, float]]:
    """Trained against exact Var[x0|zt] at some timesteps, averaged over zt and in units of the exact one's mean."""
    generator = torch.Generator().manual_seed(7)
    rows = []
    for t in TIMESTEPS:
        x0 = data.draw(20_000, generator)
        zt = add_noise(x0, torch.randn(x0.shape, generator=generator), BARS[t])
        right = data.posterior(zt, BARS[t])[1]
        found = net(zt.T[None, :, :, None], torch.tensor([t])).x0_variance(float(BARS[t]))
        off = found[0, :, :, 0].T - right
        rows.append({"t": t, "exact": float(right.mean()), "largest": float(right.max()),
                     "bias": float(off.mean() / right.mean()), "error": float(off.abs().mean() / right.mean())})  # fmt: skip
    return rows


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the 95 % t-interval."""
    width = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(width)


def ratio(above: list[float], below: list[float]) -> tuple[float, float]:
    """95 % interval of the ratio of two means over the same seeds (Fieller); inf where the lower may be 0.

    Both ends are nan where the upper mean may be 0 too.
    """
    n, (p, q) = len(above), (np.mean(above), np.mean(below))
    (vp, cov), (_, vq) = np.cov(above, below) * stats.t.ppf(0.975, n - 1) ** 2 / n
    if p**2 <= vp:
        return math.nan, math.nan
    a, b, c = q**2 - vq, p * q - cov, p**2 - vp
    root = math.sqrt(b**2 - a * c)
    return ((b - root) / a, (b + root) / a) if a > 0 else (c / (b + root), math.inf)
