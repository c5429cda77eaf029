"""Data whose posterior is known exactly, and a small net that learns it: eight Gaussians on a circle."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from jeppa.diffusion import Denoise, Prediction, alpha_bars, denoising_loss, make_scheduler, sample_timesteps

SCHEDULE = make_scheduler()
BARS = alpha_bars(SCHEDULE)
TRAIN_STEPS, BATCH, RATE, WIDTH, WAVES = 10_000, 512, 5e-3, 128, 6


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
        offset = zt.double()[:, None] - signal * self.centres()
        weight = (-offset.square().sum(2) / (2.0 * total)).softmax(1)[..., None]
        means = self.centres() + self.deviation**2 * signal / total * offset
        mean = (weight * means).sum(1)
        spread = (weight * (means - mean[:, None]).square()).sum(1)
        return mean, spread + self.deviation**2 * (1.0 - a) / total


class Net(nn.Module):
    """Mean of v from a small net, and its logvar from a head that sees only detached features.

    The net sees sines and cosines of the coordinates too. Without them it predicts 0 even after 10,000 steps: eight
    maxima in a plane are too fine for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = stack_layers(2 + 4 * WAVES + 16, WIDTH, WIDTH, WIDTH)
        self.mean = nn.Linear(WIDTH, 2)
        hidden, last = stack_layers(WIDTH + 4 + 16, WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        nn.init.zeros_(last.weight)
        self.head = nn.Sequential(hidden, last)

    def forward(self, zt: Tensor, t: Tensor) -> Prediction:
        """For latents `[B,2,h,w]`, every place on its own."""
        places = zt.movedim(1, -1)
        angle = BARS[t].sqrt().acos().float()[:, None] * torch.arange(1, 9)
        time = torch.cat([angle.cos(), angle.sin()], 1)[:, None, None].expand(*places.shape[:3], 16)
        waves = [wave(k * places) for k in range(1, WAVES + 1) for wave in (torch.sin, torch.cos)]
        features = self.body(torch.cat([places, *waves, time], -1))
        mean = self.mean(features)
        logvar = self.head(torch.cat([features.detach(), places, mean.detach(), time], -1))
        return Prediction(mean.movedim(-1, 1), logvar.movedim(-1, 1).clamp(-14.0, 4.0))


def stack_layers(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, with SiLU after each."""
    return nn.Sequential(*(layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.SiLU())))


def predict_exactly(data: Circle) -> Denoise:
    """The exact v and its logvar; each place of the one latent `[1,2,N,1]` is a point of its own."""

    def denoise(zt: Tensor, t: Tensor) -> Prediction:
        a = BARS[t[0]]
        points = zt[0, :, :, 0].T
        mean, variance = data.posterior(points, a)
        v = (a.sqrt() * points - mean) / (1.0 - a).sqrt()
        return Prediction(as_latent(v), as_latent((variance / (1.0 - a)).log()))

    return denoise


def as_latent(points: Tensor) -> Tensor:
    """Points `[N,2]` as one latent, float32 `[1,2,N,1]`."""
    return points.T[None, :, :, None].float()


def combine(mean: Denoise, variance: Denoise) -> Denoise:
    """A prediction with the mean of one net and the variance of another."""
    return lambda zt, t: Prediction(mean(zt, t).mean, variance(zt, t).logvar)


def train_net(data: Circle) -> Net:
    """Train a net with the library's loss."""
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
