"""The families of p(x|z) and q(z|x): diagonal Gaussian, Student's t, and either of them over bands.

Diagonal Gaussian: a mean and a log-variance per element. Units: natural log throughout; `logvar` is the natural log
of the variance; log(2*pi) is included. Sums run over all dimensions but the first, in float32 for any narrower input,
and in float64 for float64.

Student's t: a mean and a variance for every pixel, for errors with heavier tails than a Gaussian's. Takahashi et al.,
Student-t Variational Autoencoder for Robust Density Estimation, IJCAI 2018. The family is given by its *variance*,
not its scale, so that a sigma map means the same as for a Gaussian: scale^2 = variance * (df - 2) / df, which needs
more than two degrees of freedom.

A Gaussian over bands is diagonal in a basis of colours and spatial frequencies instead of pixels. A drawn residual is
*correlated* between pixels, so it looks like grain or texture and not like salt and pepper. The basis is orthonormal:
it neither adds nor removes volume, so log-likelihoods compare with those of a pixel distribution. Coefficient (k, l)
of the 8x8 cell (i, j) stands at pixel (8i + k, 8j + l) of an image-sized tensor.

It has two bases: `dct`, the block transform of JPEG, and `lapped`, the lapped orthogonal transform, whose functions
reach over half of the neighbouring cells, so that a draw has no seams between cells. `results/bands.py` compares
them.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, Self

import torch
from scipy.special import gammaincinv
from torch import Tensor

from jeppa.config import CELL, Basis

LOG_2PI = math.log(2.0 * math.pi)


class Predictive(Protocol):
    """What a decoder predicts: a distribution of the image, `[B,3,H,W]`, of any family.

    `element_*` are in the basis in which the elements are independent: pixels, or bands (`jeppa.distributions`).
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

    @property
    def element_side(self) -> int:
        """Side in pixels of the block that an element belongs to: 1, or that of a cell for bands."""

    @classmethod
    def from_elements(cls, mean: Tensor, element_logvar: Tensor, basis: Basis, degrees: Tensor | None) -> "Predictive":
        """The distribution that a sigma head describes; a class ignores what its family does not have.

        Args:
            mean: `[B,3,H,W]`.
            element_logvar: natural log of the variance of each independent element, same shape.
            basis: of the bands.
            degrees: degrees of freedom, a scalar, for an arm with tails.
        """

    def around(self, mean: Tensor, element_logvar: Tensor) -> Self:
        """The same family with the same other parameters, around another mean and with other variances."""

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
    def element_side(self) -> int:
        """1: each pixel is an element."""
        return 1

    @classmethod
    def from_elements(cls, mean: Tensor, element_logvar: Tensor, basis: Basis, degrees: Tensor | None) -> Self:
        """The Gaussian of this mean and log-variance; basis and degrees are not used."""
        return cls(mean, element_logvar)

    def around(self, mean: Tensor, element_logvar: Tensor) -> Self:
        """The same family around another mean and with another log-variance."""
        return replace(self, mean=mean, logvar=element_logvar)

    @property
    def var(self) -> Tensor:
        """Variance, shape of `logvar`."""
        return widen(self.logvar).exp()

    @property
    def std(self) -> Tensor:
        """Standard deviation (what people are shown as sigma), shape of `logvar`."""
        return (0.5 * widen(self.logvar)).exp()

    def element_residual(self, x: Tensor) -> Tensor:
        """x - mean."""
        return widen(x) - widen(self.mean)

    def element_nll(self, x: Tensor) -> Tensor:
        """Negative log density of each element of `x` in nats, shape of `mean`.

        Source: -log N(x; m, v) = 1/2 [log 2 pi + log v + (x - m)^2 / v].
        """
        return gaussian_nll(self.element_residual(x), widen(self.logvar))

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
        mean = widen(self.mean)
        logvar = widen(self.logvar).expand_as(mean)
        if other is None:
            per_element = mean.square() + logvar.exp() - 1.0 - logvar
        else:
            prior_logvar = widen(other.logvar)
            squared = (mean - widen(other.mean)).square()
            per_element = (squared + logvar.exp()) * (-prior_logvar).exp() - 1.0 + prior_logvar - logvar
        return 0.5 * per_element

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Draw once: mean + std * noise, shape of `mean`.

        Args:
            generator: one generator for the batch, or a list with one for each sample, so that a sample
                does not depend on the batch that it is drawn in.
        """
        return widen(self.mean) + self.std * standard_normal(self.mean, generator)

    def quantile(self, probability: float) -> Tensor:
        """The value below which `probability` (0 to 1, exclusive) of the mass lies, shape of `mean`.

        Raises:
            ValueError: if `probability` is not strictly between 0 and 1.
        """
        if not 0.0 < probability < 1.0:
            raise ValueError(f"probability is {probability}, but must lie strictly between 0 and 1")
        z_score = math.sqrt(2.0) * torch.erfinv(torch.tensor(2.0 * probability - 1.0, dtype=torch.float64))
        return widen(self.mean) + float(z_score) * self.std


def widen(x: Tensor) -> Tensor:
    """`x` in float32, but float64 stays float64, which numerical checks of gradients need."""
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
    return torch.stack([_draw(like.shape[1:], source, like.device) for source in generator])


def _draw(shape: torch.Size, generator: torch.Generator | None, device: torch.device) -> Tensor:
    source = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=source, dtype=torch.float32).to(device)


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

    @property
    def element_side(self) -> int:
        """1: each pixel is an element."""
        return 1

    @classmethod
    def from_elements(cls, mean: Tensor, element_logvar: Tensor, basis: Basis, degrees: Tensor | None) -> Self:
        """The t distributions of this mean, log-variance and degrees, which must be given; basis is not used."""
        assert degrees is not None
        return cls(mean, element_logvar, degrees)

    def around(self, mean: Tensor, element_logvar: Tensor) -> Self:
        """The same family around another mean and with another log-variance."""
        return replace(self, mean=mean, logvar=element_logvar)

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


# Brightness, red against blue, green against both: orthonormal.
OPPONENT = torch.nn.functional.normalize(
    torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64), dim=1
)


def to_bands(x: Tensor, basis: Basis) -> Tensor:
    """Coefficients of images in the orthonormal basis, float32, shape of `x`.

    Args:
        x: `[B,3,H,W]`, H and W multiples of 8.
        basis: `dct` or `lapped`.
    """
    rows, columns = (_matrix(basis, side).to(x.device) for side in x.shape[2:])
    return _colours(OPPONENT, rows @ x.float() @ columns.T)


def from_bands(coefficients: Tensor, basis: Basis) -> Tensor:
    """Inverse of `to_bands`."""
    rows, columns = (_matrix(basis, side).to(coefficients.device) for side in coefficients.shape[2:])
    return _colours(OPPONENT.T, rows.T @ coefficients.float() @ columns)


def pixel_variance(variance: Tensor, basis: Basis) -> Tensor:
    """Variance of every pixel, given independent coefficients of the given variances, `[B,3,H,W]` each.

    The exact diagonal of the covariance A^T diag(v) A: squared basis functions, weighted by the variances.
    """
    rows, columns = (_matrix(basis, side).to(variance.device).square() for side in variance.shape[2:])
    return _colours(OPPONENT.T.square(), rows.T @ variance.float() @ columns)


@dataclass(frozen=True)
class BandGaussian:
    """Independent coefficients around the mean: covariance A^T diag(exp(band_logvar)) A, A the orthonormal transform.

    Args:
        mean: in pixels, `[B,3,H,W]`, H and W multiples of 8.
        band_logvar: natural log of the variance of each coefficient, same shape, in the layout of `to_bands`.
        basis: which transform.
        degrees: degrees of freedom of the coefficients, scalar tensor above 2, or None for Gaussian ones. A band is
            zero almost everywhere but for a few edges, so its coefficients have heavy tails; a pixel sums up many
            of them and stays close to Gaussian.
    """

    mean: Tensor
    band_logvar: Tensor
    basis: Basis
    degrees: Tensor | None = None

    @property
    def df(self) -> float | None:
        """None: each pixel's marginal is Gaussian, or nearly so by the central limit theorem."""
        return None

    @property
    def element_logvar(self) -> Tensor:
        """Log-variance of the coefficients."""
        return self.band_logvar

    @property
    def element_side(self) -> int:
        """A coefficient belongs to a whole cell."""
        return CELL

    @classmethod
    def from_elements(cls, mean: Tensor, element_logvar: Tensor, basis: Basis, degrees: Tensor | None) -> Self:
        """The distribution of this mean whose coefficients have this log-variance."""
        return cls(mean, element_logvar, basis, degrees)

    def around(self, mean: Tensor, element_logvar: Tensor) -> Self:
        """The same family around another mean and with other variances of the coefficients."""
        return replace(self, mean=mean, band_logvar=element_logvar)

    @property
    def logvar(self) -> Tensor:
        """Natural log of the variance of each pixel, `[B,3,H,W]`, exact for any `degrees`."""
        return pixel_variance(self.band_logvar.float().exp(), self.basis).clamp(min=1e-12).log()

    @property
    def var(self) -> Tensor:
        """Variance of each pixel, `[B,3,H,W]`."""
        return self.logvar.exp()

    def element_residual(self, x: Tensor) -> Tensor:
        """Coefficients of x - mean, float32."""
        return to_bands(x.float() - self.mean.float(), self.basis)

    def element_nll(self, x: Tensor) -> Tensor:
        """Negative log density of each coefficient in nats, shape of `mean`."""
        residual = self.element_residual(x)
        if self.degrees is None:
            return gaussian_nll(residual, self.band_logvar.float())
        return student_t_nll(residual, self.band_logvar.float(), self.degrees)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of the image in nats, `[B]`; |det A| is 1."""
        return -self.element_nll(x).flatten(1).sum(1)

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Draw an image: independent coefficients, transformed back; float32."""
        if self.degrees is None:
            noise = standard_normal(self.mean, generator)
        else:
            noise = standard_student_t(self.mean, float(self.degrees), generator)
        return self.mean.float() + from_bands((0.5 * self.band_logvar.float()).exp() * noise, self.basis)


def _colours(matrix: Tensor, x: Tensor) -> Tensor:
    mixed: Tensor = torch.einsum("cd,bdhw->bchw", matrix.to(x), x)
    return mixed


@lru_cache(maxsize=64)
def _matrix(basis: Basis, length: int) -> Tensor:
    """Orthonormal transform of a signal of `length` samples, `[length,length]` float32."""
    blocks: Tensor = torch.block_diag(*[_dct(CELL)] * (length // CELL))
    whole: Tensor = blocks @ _lapping(length) if basis == "lapped" else blocks
    return whole.float()


def _dct(size: int, fourth: bool = False) -> Tensor:
    """Orthonormal DCT of type II, or IV, rows are basis functions; float64 `[size,size]`."""
    place = torch.arange(size, dtype=torch.float64) + 0.5
    order = torch.arange(size, dtype=torch.float64)[:, None] + (0.5 if fourth else 0.0)
    rows: Tensor = torch.cos(torch.pi / size * order * place) * (2.0 / size) ** 0.5
    if not fourth:
        rows[0] /= 2.0**0.5
    return rows


def _lapping(length: int) -> Tensor:
    """Orthonormal pre-filter across the borders of cells that turns a block DCT into the lapped transform.

    At each border the mirror-symmetric part of the surrounding 8 samples stays, the antisymmetric one is rotated, so
    a constant stays a constant. Source: Tran, Liang and Tu, Lapped Transform via Time-Domain Pre- and Post-Filtering,
    IEEE Trans. Signal Processing 51(6), 2003, with the rotation that makes it Malvar's lapped orthogonal transform.
    """
    half = CELL // 2
    eye, flip = torch.eye(half, dtype=torch.float64), torch.eye(half, dtype=torch.float64).flip(0)
    rotation = flip @ _dct(half).T @ _dct(half, fourth=True) @ flip
    butterfly = torch.cat([torch.cat([eye, flip], 1), torch.cat([flip, -eye], 1)]) / 2.0**0.5
    border = butterfly @ torch.block_diag(eye, rotation) @ butterfly
    edges = torch.eye(half, dtype=torch.float64)
    whole: Tensor = torch.block_diag(edges, *[border] * (length // CELL - 1), edges)
    return whole
