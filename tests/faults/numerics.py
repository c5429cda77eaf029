"""Distributions, losses and nets at the edges of what numbers can be, and their peers in other libraries."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from jeppa.config import Likelihood
from jeppa.distributions import DiagonalGaussian, Predictive
from jeppa.vae import LIKELIHOODS, HeteroscedasticVAE
from jeppa.vae.sigma_head import bound_logvar
from results.synthetic import known_gaussian

LEAST_SIGMA = torch.tensor(-6.0).exp()


def some_gaussian(seed: int, dtype: torch.dtype = torch.float32) -> DiagonalGaussian:
    """Means about 0, sigmas from about 0.01 to 5, `[2,3,4,5]`."""
    generator = torch.Generator().manual_seed(seed)
    mean, raw = torch.randn(2, 2, 3, 4, 5, generator=generator)
    return DiagonalGaussian(mean.to(dtype), (2.0 * raw - 3.0).to(dtype))


def peer(gaussian: DiagonalGaussian) -> Normal:
    """The same in torch.distributions, in float64."""
    return Normal(gaussian.mean.double(), (0.5 * gaussian.logvar.double()).exp())


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest relative difference."""
    return float(((found.double() - expected) / expected).abs().max())


def differences_from_torch() -> dict[str, float]:
    """Largest relative difference, over 20 draws, of our float32 NLL and KL from float64 ones of torch."""
    largest = {"nll": 0.0, "kl": 0.0, "kl of two": 0.0}
    standard = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    for seed in range(20):
        a, b = some_gaussian(seed), some_gaussian(100 + seed)
        x = torch.randn(a.mean.shape, generator=torch.Generator().manual_seed(seed))
        for key, found, expected in (
            ("nll", -a.log_prob(x), -peer(a).log_prob(x.double())),
            ("kl", a.kl(), kl_divergence(peer(a), standard)),
            ("kl of two", a.kl(b), kl_divergence(peer(a), peer(b))),
        ):
            largest[key] = max(largest[key], relative(found, expected.flatten(1).sum(1)))
    return largest


def gradients_are_right() -> bool:
    """torch.autograd.gradcheck of NLL and both KLs in float64; raises where one is wrong."""
    a, b = some_gaussian(1, torch.float64), some_gaussian(2, torch.float64)
    x = torch.randn(a.mean.shape, dtype=torch.float64)
    leaves = tuple(leaf[:1, :1].clone().requires_grad_() for leaf in (a.mean, a.logvar, b.mean, b.logvar, x))

    def terms(mean: Tensor, logvar: Tensor, mean2: Tensor, logvar2: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        gaussian = DiagonalGaussian(mean, logvar)
        return gaussian.log_prob(x), gaussian.kl(), gaussian.kl(DiagonalGaussian(mean2, logvar2))

    return torch.autograd.gradcheck(terms, leaves)


def predicted(arm: Likelihood, mean: Tensor, raw: Tensor) -> Predictive:
    """A decoder's answer of the family of `arm`, its log-variance bounded as the sigma head bounds it."""
    logvar, degrees = bound_logvar(raw), torch.tensor(3.0)
    tails = degrees if LIKELIHOODS[arm].tails else None
    return LIKELIHOODS[arm].distribution.from_elements(mean, logvar, "lapped", tails)


def loss_and_gradients(arm: Likelihood, x: Tensor, mean: Tensor, raw: Tensor) -> list[Tensor]:
    """Loss `[B]` and its gradients by mean and by raw log-variance, where there are any."""
    leaves = [mean.detach().requires_grad_(), raw.detach().requires_grad_()]
    loss = LIKELIHOODS[arm].loss(x, predicted(arm, *leaves), torch.tensor(-4.0))
    loss.sum().backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def model_step(model: HeteroscedasticVAE, x: Tensor) -> list[Tensor]:
    """A training step's loss, its gradients, and the log-variances on the way."""
    model.zero_grad()
    posterior = model.encode(x)
    decoded = model.decode(posterior.sample(torch.Generator().manual_seed(0)))
    loss = model.arm.loss(x, decoded, model.shared_logvar) + posterior.kl()
    loss.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [loss.detach(), decoded.logvar.detach(), posterior.logvar.detach(), *gradients]


def learn_sigma(steps: int = 150) -> tuple[float, float]:
    """Fit a pointwise net to images of known mean; mean relative error of sigma, and chi2, on other images."""
    torch.manual_seed(0)
    known, other = known_gaussian(32, 32, 0), known_gaussian(8, 32, 1)
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    shared = torch.tensor(-4.5)

    def predict(mean: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(mean, bound_logvar(shared + net(mean[..., None])[..., 0]))

    for _ in range(steps):
        rows = torch.randperm(len(known.x))[:8]
        loss = LIKELIHOODS["faithful"].loss(known.x[rows], predict(known.mean[rows]), shared).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        logvar = predict(other.mean).logvar
    error = ((0.5 * (logvar - other.logvar)).exp() - 1.0).abs().mean()
    chi2 = ((other.x - other.mean).square() * (-logvar).exp()).mean()
    return float(error), float(chi2)


def sampled(scheduler: DDIMScheduler, steps: int, eta: float) -> Tensor:
    """The end of a run with a made-up net that is about right for standard normal data; the same noise for all."""
    generator = torch.Generator().manual_seed(0)
    zt = torch.randn(2, 4, 6, 5, generator=generator)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        alpha_bar = float(scheduler.alphas_cumprod[t])
        right = {"epsilon": (1.0 - alpha_bar) ** 0.5, "sample": alpha_bar**0.5, "v_prediction": 0.0}
        output = right[scheduler.config.prediction_type] * zt + 0.1 * torch.tanh(zt + t / 1000)
        zt = scheduler.step(output, t, zt, eta=eta, generator=generator).prev_sample
    return zt


def stock_reconstruction(vae: AutoencoderKL, x: Tensor, unshuffle: int) -> Tensor:
    """What diffusers alone makes of pictures `[B,3,H,W]`."""
    latent = vae.encode(nn.functional.pixel_unshuffle(x, unshuffle)).latent_dist.mean
    return nn.functional.pixel_shuffle(vae.decode(latent).sample, unshuffle)
