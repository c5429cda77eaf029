"""The KL term of a VAE's loss: its weight over time, free bits, and how much each latent channel is used."""

import math

import torch
from torch import Tensor, nn

from jeppa.config import VAERun
from jeppa.distributions import DiagonalGaussian
from jeppa.train.ranks import mean_of_batch
from jeppa.train.step import Terms

RATE_MEMORY = 0.95

# The rate follows beta slowly, and more slowly at a lower learning rate. So most of the control is proportional, and
# large errors are integrated no faster than small ones; otherwise beta overshoots before the latent has followed it.
PROPORTIONAL = 5.0
INTEGRAL = 0.1
LARGEST_ERROR = 0.5
INTEGRATED_ERROR = 0.1
LEAST_BETA = 1e-6
ACTIVE_VARIANCE = 0.01


class KLTerm(nn.Module):
    """beta * KL(q(z|x) || N(0, I)) with warm-up, free bits, and a beta that can hold a wanted rate.

    Its state is in buffers, so a resumed run goes on with the same beta.

    Args:
        config: `beta`, `kl_warmup_steps`, `free_bits` and `rate` of it.
        deterministic: the encoder gives no variance, so every term is 0.
    """

    steps: Tensor
    log_beta: Tensor
    average_rate: Tensor

    def __init__(self, config: VAERun, deterministic: bool = False) -> None:
        super().__init__()
        self.deterministic = deterministic
        self.warmup = config.kl_warmup_steps
        self.free_nats = config.free_bits * math.log(2.0)
        self.wanted = config.rate
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("log_beta", torch.tensor(math.log(max(config.beta, LEAST_BETA))))
        self.register_buffer("average_rate", torch.zeros(()))
        self._zero = config.beta == 0.0 and config.rate is None

    @property
    def beta(self) -> Tensor:
        """The weight at this step, scalar."""
        if self._zero:
            return torch.zeros_like(self.log_beta)
        share = min(1.0, (float(self.steps) + 1.0) / self.warmup) if self.warmup else 1.0
        return (self.log_beta + PROPORTIONAL * self._error()).exp() * share

    def forward(
        self, posterior: DiagonalGaussian, dims: int, means: Terms | None = None, counted: Tensor | None = None
    ) -> Terms:
        """Terms `[B]`: `weighted` (nats), `rate` (bits a dimension of the image) and, for the log, those of channels.

        Args:
            posterior: over `[B,C,h,w]`.
            dims: dimensions of the image, 3*H*W.
            means: those of these terms over the whole batch, where the posterior is that of a part.
            counted: which samples count, where other processes have the rest of the batch; see `mean_of_batch`.
        """
        element = torch.zeros_like(posterior.mean) if self.deterministic else posterior.element_kl()
        channel = element.flatten(2).mean(2)
        rate = element.detach().flatten(1).sum(1) / dims / math.log(2.0)
        weighted = self.beta * self._pressed(channel, means, counted) * element[0, 0].numel()
        mean = posterior.mean.detach().flatten(2)
        terms = {"weighted": weighted, "rate": rate, "beta": self.beta.detach().expand_as(rate)}
        for index in range(channel.shape[1]):
            terms[f"kl_{index}"] = channel[:, index].detach() / math.log(2.0)
            terms[f"z_{index}"] = mean[:, index].mean(1)
            terms[f"z2_{index}"] = mean[:, index].square().mean(1)
        return terms

    @torch.no_grad()
    def advance(self, rate: Tensor) -> None:
        """Count a step of this mean rate and, where a rate is wanted, move the integral part of beta.

        Source: in the manner of Rezende and Viola, arXiv 1810.00597, with the rate as the constraint.
        """
        memory = RATE_MEMORY if int(self.steps) else 0.0
        self.steps += 1
        self.average_rate.mul_(memory).add_(rate, alpha=1.0 - memory)
        if int(self.steps) > self.warmup:
            self.log_beta += INTEGRAL * self._error().clamp(-INTEGRATED_ERROR, INTEGRATED_ERROR)

    def _pressed(self, channel: Tensor, means: Terms | None, counted: Tensor | None) -> Tensor:
        """Sum over channels of KL a cell, `[B]`; channels whose batch mean is below the free bits give no gradient.

        Source: Kingma et al., arXiv 1606.04934, equation 16, with a channel for a group.
        """
        if not self.free_nats:
            return channel.sum(1)
        if means is None:
            mean = mean_of_batch(channel.detach(), counted)
        else:
            mean = torch.stack([means[f"kl_{index}"] for index in range(channel.shape[1])]) * math.log(2.0)
        pressed = (mean > self.free_nats).to(channel)
        return (pressed * channel + (1.0 - pressed) * self.free_nats).sum(1)

    def _error(self) -> Tensor:
        """Bounded logarithm of the rate over the wanted rate; 0 if no rate is wanted or no step was taken yet."""
        if self.wanted is None or not int(self.steps):
            return torch.zeros_like(self.log_beta)
        error = (self.average_rate.clamp(min=1e-9) / self.wanted).log()
        return error.clamp(-LARGEST_ERROR, LARGEST_ERROR)


def latent_summary(means: dict[str, float]) -> dict[str, float]:
    """Figures for the log: KL of each channel (bits a cell), and how many channels are in use.

    A channel is active when the posterior mean varies by more than 0.01 over images and places.
    Source: Burda et al., arXiv 1509.00519, section 5.2.
    """
    channels = sum(key.startswith("kl_") for key in means)
    variances = [means[f"z2_{index}"] - means[f"z_{index}"] ** 2 for index in range(channels)]
    figures = {f"kl_channel_{index}": means[f"kl_{index}"] for index in range(channels)}
    return figures | {"active_units": float(sum(variance > ACTIVE_VARIANCE for variance in variances))}
