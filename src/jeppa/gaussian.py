"""The diagonal Gaussian that every prediction in jeppa is: a mean and a log-variance per element.

Units: natural log throughout; `logvar` is the natural log of the variance; log(2*pi) is included.
Sums run over all dimensions but the first, in float32 for any narrower input, and in float64 for float64.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)


class Predictive(Protocol):
    """What a decoder answers: a distribution of the image, `[B,3,H,W]`, whatever its family.

    `element_*` are in the basis in which the elements are independent: pixels, or bands (`jeppa.bands`).
    """

    @property
    def mean(self) -> Tensor:
        """Reconstruction, `[B,3,H,W]`."""

    @property
    def logvar(self) -> Tensor:
        """Natural log of the variance of each pixel, `[B,3,H,W]`."""

    @property
    def var(self) -> Tensor:
        """Variance of each pixel, `[B,3,H,W]`."""

    @property
    def df(self) -> float | None:
        """Degrees of freedom of Student-t marginals, or None for Gaussian ones."""

    @property
    def element_logvar(self) -> Tensor:
        """Natural log of the variance of each independent element, `[B,3,H,W]`."""

    def element_residual(self, x: Tensor) -> Tensor:
        """Residual of each independent element, `[B,3,H,W]`."""

    def element_nll(self, x: Tensor) -> Tensor:
        """Negative log density of each independent element in nats; sums to `-log_prob`."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats, `[B]`."""

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """A drawn image, `[B,3,H,W]` float32."""


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
    def df(self) -> float | None:
        """None: the marginals are Gaussian, not Student-t."""
        return None

    @property
    def element_logvar(self) -> Tensor:
        """`logvar` itself: the elements of this distribution are independent."""
        return self.logvar

    @property
    def var(self) -> Tensor:
        """Variance, shape of `logvar`."""
        return wide(self.logvar).exp()

    @property
    def std(self) -> Tensor:
        """Standard deviation (what people are shown as sigma), shape of `logvar`."""
        return (0.5 * wide(self.logvar)).exp()

    def element_residual(self, x: Tensor) -> Tensor:
        """x - mean."""
        return wide(x) - wide(self.mean)

    def element_nll(self, x: Tensor) -> Tensor:
        """Negative log density of each element of `x` in nats, shape of `mean`.

        Source: -log N(x; m, v) = 1/2 [log 2 pi + log v + (x - m)^2 / v].
        """
        return gaussian_nll(self.element_residual(x), wide(self.logvar))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of `x` in nats, summed over all but the first dimension: `[B]`."""
        return -self.element_nll(x).flatten(1).sum(1)

    def kl(self, other: "DiagonalGaussian | None" = None) -> Tensor:
        """KL(self || other) in nats, summed over all but the first dimension: `[B]`."""
        return self.element_kl(other).flatten(1).sum(1)

    def element_kl(self, other: "DiagonalGaussian | None" = None) -> Tensor:
        """KL(self || other) of each element in nats, shape of `mean`.

        `other` defaults to the standard normal. Source: Kingma and Welling, arXiv 1312.6114, appendix B.
        """
        mean = wide(self.mean)
        logvar = wide(self.logvar).expand_as(mean)
        if other is None:
            per_element = mean.square() + logvar.exp() - 1.0 - logvar
        else:
            prior_logvar = wide(other.logvar)
            squared = (mean - wide(other.mean)).square()
            per_element = (squared + logvar.exp()) * (-prior_logvar).exp() - 1.0 + prior_logvar - logvar
        return 0.5 * per_element

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Draw once: mean + std * noise, shape of `mean`.

        Args:
            generator: one generator for the batch, or a list with one for each sample, so that a sample
                does not depend on the batch that it is drawn in.
        """
        return wide(self.mean) + self.std * standard_normal(self.mean, generator)

    def quantile(self, probability: float) -> Tensor:
        """The value below which `probability` (0 to 1, exclusive) of the mass lies, shape of `mean`.

        Raises:
            ValueError: if `probability` is not strictly between 0 and 1.
        """
        if not 0.0 < probability < 1.0:
            raise ValueError(f"probability is {probability}, but must lie strictly between 0 and 1")
        z_score = math.sqrt(2.0) * torch.erfinv(torch.tensor(2.0 * probability - 1.0, dtype=torch.float64))
        return wide(self.mean) + float(z_score) * self.std


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where it is float64, as a check of gradients needs."""
    return x if x.dtype == torch.float64 else x.float()


def gaussian_nll(residual: Tensor, logvar: Tensor) -> Tensor:
    """-log N(residual; 0, exp(logvar)) elementwise in nats."""
    return 0.5 * (LOG_2PI + logvar + residual.square() * (-logvar).exp())


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
