"""Student's t with a mean and a variance for every pixel: errors with heavier tails than a Gaussian's.

Takahashi et al., Student-t Variational Autoencoder for Robust Density Estimation, IJCAI 2018. The family is
given by its *variance*, not its scale, so that a sigma map means the same as for a Gaussian:
scale^2 = variance * (df - 2) / df, which needs more than two degrees of freedom.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import gammaincinv
from torch import Tensor

from jeppa.gaussian import standard_normal

LEAST_DF = 2.5


@dataclass(frozen=True)
class DiagonalStudentT:
    """Independent t distributions of given mean, variance and degrees of freedom.

    Args:
        mean: `[B,3,H,W]`.
        logvar: natural log of the variance (not of the squared scale), same shape.
        degrees: degrees of freedom, scalar tensor of at least `LEAST_DF`.
    """

    mean: Tensor
    logvar: Tensor
    degrees: Tensor

    @property
    def df(self) -> float:
        """Degrees of freedom as a number."""
        return float(self.degrees)

    @property
    def var(self) -> Tensor:
        """Variance, shape of `logvar`."""
        return self.logvar.float().exp()

    @property
    def element_logvar(self) -> Tensor:
        """`logvar` itself: the pixels are independent."""
        return self.logvar

    def element_residual(self, x: Tensor) -> Tensor:
        """x - mean, float32."""
        return x.float() - self.mean.float()

    def element_nll(self, x: Tensor) -> Tensor:
        """Negative log density of each pixel in nats, shape of `mean`."""
        return student_t_nll(self.element_residual(x), self.logvar.float(), self.degrees)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of `x` in nats, summed over all but the first dimension: `[B]`."""
        return -self.element_nll(x).flatten(1).sum(1)

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Draw once, float32."""
        return self.mean.float() + (0.5 * self.logvar.float()).exp() * standard_student_t(self.mean, self.df, generator)


def student_t_nll(residual: Tensor, logvar: Tensor, degrees: Tensor) -> Tensor:
    """Negative log density of t distributions of mean 0 and the given variance, elementwise in nats, float32.

    Source: with s^2 = v (n - 2) / n: log [sqrt(n pi) s Gamma(n/2) / Gamma((n+1)/2)] + (n+1)/2 log(1 + r^2 / (n s^2)).
    """
    n = degrees.float()
    log_scale2 = logvar + torch.log1p(-2.0 / n)
    constant = 0.5 * torch.log(n * math.pi) + torch.lgamma(0.5 * n) - torch.lgamma(0.5 * (n + 1.0))
    relative = residual.square() * (-log_scale2).exp() / n
    return constant + 0.5 * log_scale2 + 0.5 * (n + 1.0) * torch.log1p(relative)


def standard_student_t(like: Tensor, df: float, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Draws of mean 0 and variance 1, float32 of the shape of `like`: a normal over the root of a chi-squared / df.

    The chi-squared draw inverts its distribution function at uniforms made of a second normal draw, so that one
    generator for each sample suffices.
    """
    normal = standard_normal(like, generator)
    uniform = 0.5 * torch.erfc(-standard_normal(like, generator).double() / math.sqrt(2.0))
    half = 0.5 * df
    chi2_over_df = torch.from_numpy(gammaincinv(half, uniform.cpu().numpy())).to(normal) / half
    return normal * (chi2_over_df.clamp(min=1e-6) * df / (df - 2.0)).rsqrt()
