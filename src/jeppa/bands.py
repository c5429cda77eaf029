"""A distribution that is diagonal in a basis of colours and spatial frequencies instead of pixels.

A drawn residual of it is *correlated* between pixels, so it looks like grain or texture and not like salt and
pepper. The basis is orthonormal: it neither adds nor removes volume, so log-likelihoods compare with those of a pixel
distribution. Coefficient (k, l) of the 8x8 cell (i, j) stands at pixel (8i + k, 8j + l) of an image-sized tensor.

Two bases: `dct`, the block transform of JPEG, and `lapped`, the lapped orthogonal transform, whose functions reach
over half of the neighbouring cells, so that a draw has no seams between cells. `results/bands.py` compares them.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from jeppa.config import Basis
from jeppa.gaussian import gaussian_nll, standard_normal
from jeppa.student_t import standard_student_t, student_t_nll

CELL = 8

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
        degrees: degrees of freedom of the coefficients, scalar tensor above 2, or None for Gaussian ones. A band
            holds a few edges and much of nothing, so its coefficients have heavy tails; a pixel sums up many of
            them and stays close to Gaussian.
    """

    mean: Tensor
    band_logvar: Tensor
    basis: Basis
    degrees: Tensor | None = None

    @property
    def df(self) -> float | None:
        """None: each pixel's marginal is Gaussian, or by the central limit theorem about so."""
        return None

    @property
    def element_logvar(self) -> Tensor:
        """Log-variance of the coefficients."""
        return self.band_logvar

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
    a constant stays one. Source: Tran, Liang and Tu, Lapped Transform via Time-Domain Pre- and Post-Filtering, IEEE
    Trans. Signal Processing 51(6), 2003, with the rotation that makes it Malvar's lapped orthogonal transform.
    """
    half = CELL // 2
    eye, flip = torch.eye(half, dtype=torch.float64), torch.eye(half, dtype=torch.float64).flip(0)
    rotation = flip @ _dct(half).T @ _dct(half, fourth=True) @ flip
    butterfly = torch.cat([torch.cat([eye, flip], 1), torch.cat([flip, -eye], 1)]) / 2.0**0.5
    border = butterfly @ torch.block_diag(eye, rotation) @ butterfly
    edges = torch.eye(half, dtype=torch.float64)
    whole: Tensor = torch.block_diag(edges, *[border] * (length // CELL - 1), edges)
    return whole
