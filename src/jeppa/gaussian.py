"""The diagonal Gaussian that every prediction in jeppa is: a mean and a log-variance per element.

Units: natural log throughout; `logvar` is the natural log of the variance; log(2*pi) is included.
Sums run over all dimensions but the first, in float32, whatever the input's dtype.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag(exp(logvar))), elementwise independent.

    Args:
        mean: float tensor `[B, ...]`.
        logvar: natural log of the variance, any shape that broadcasts to `mean`.
    """

    mean: Tensor
    logvar: Tensor

    @property
    def var(self) -> Tensor:
        """Variance, shape of `logvar`."""
        return self.logvar.float().exp()

    @property
    def std(self) -> Tensor:
        """Standard deviation (what people are shown as sigma), shape of `logvar`."""
        return (0.5 * self.logvar.float()).exp()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of `x` in nats, summed over all but the first dimension: `[B]`.

        Source: log N(x; m, v) = -1/2 [log 2 pi + log v + (x - m)^2 / v].
        """
        logvar = self.logvar.float()
        squared = (x.float() - self.mean.float()).square()
        per_element = -0.5 * (LOG_2PI + logvar + squared * (-logvar).exp())
        return per_element.flatten(1).sum(1)

    def kl(self, other: "DiagonalGaussian | None" = None) -> Tensor:
        """KL(self || other) in nats, summed over all but the first dimension: `[B]`.

        `other` defaults to the standard normal. Source: Kingma and Welling, arXiv 1312.6114, appendix B.
        """
        mean = self.mean.float()
        logvar = self.logvar.float().expand_as(mean)
        if other is None:
            per_element = mean.square() + logvar.exp() - 1.0 - logvar
        else:
            prior_logvar = other.logvar.float()
            squared = (mean - other.mean.float()).square()
            per_element = (squared + logvar.exp()) * (-prior_logvar).exp() - 1.0 + prior_logvar - logvar
        nats: Tensor = 0.5 * per_element.flatten(1).sum(1)
        return nats

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Draw once: mean + std * noise, float32, shape of `mean`.

        Args:
            generator: one generator for the batch, or a list with one for each sample, so that a sample
                does not depend on the batch that it is drawn in.
        """
        return self.mean.float() + self.std * standard_normal(self.mean, generator)

    def quantile(self, probability: float) -> Tensor:
        """The value below which `probability` (0 to 1, exclusive) of the mass lies, shape of `mean`.

        Raises:
            ValueError: if `probability` is not strictly between 0 and 1.
        """
        if not 0.0 < probability < 1.0:
            raise ValueError(f"probability is {probability}, but must lie strictly between 0 and 1")
        z_score = math.sqrt(2.0) * torch.erfinv(torch.tensor(2.0 * probability - 1.0, dtype=torch.float64))
        return self.mean.float() + float(z_score) * self.std


def standard_normal(like: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Standard normal noise, float32, of the shape and device of `like` (`[B, ...]`).

    Drawn on the generator's device and then moved, so that a CPU seed gives the same noise everywhere.

    Raises:
        ValueError: if a list of generators does not have exactly one for each sample.
    """
    if not isinstance(generator, list):
        return _draw(like.shape, generator, like.device)
    if len(generator) != like.shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {like.shape[0]}: give one for each sample")
    return torch.stack([_draw(like.shape[1:], one, like.device) for one in generator])


def _draw(shape: torch.Size, generator: torch.Generator | None, device: torch.device) -> Tensor:
    source = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=source, dtype=torch.float32).to(device)
