"""Decoder likelihoods: the losses that compare a prediction with its image, in nats, and the registry of them.

All share one interface, `loss(x, decoded, shared_logvar) -> [B]`: what is minimised, summed over colour and place,
log(2 pi) included, for x in [-1,1] (8-bit data scaled by 1/127.5). The variance floor is the sigma head's
(log sigma >= -6). What a model *reports* is always `-decoded.log_prob(x)`; the loss may be another function with
other gradients.

`LIKELIHOODS` at the end is the only place that tells them apart. The model, its training, comparisons and plots follow
from the fields of `Arm`.

| name | mean learns from | variance | head's gradient |
|---|---|---|---|
| `fixed` | squared error, unit variance | 1, the ordinary VAE | no head |
| `shared` | squared error over the shared variance | one number, the running mean squared error (sigma-VAE) | no head |
| `nll` | joint Gaussian likelihood | per pixel | reaches the decoder |
| `beta-nll` | the same, each pixel weighted by its variance^0.5 | per pixel | reaches the decoder |
| `student-t` | joint Student-t likelihood | per pixel, and heavy tails | reaches the decoder |
| `faithful` | the same as `shared`, bit for bit | per pixel | stopped |
| `band` | joint Gaussian likelihood | per colour, frequency and 8x8 cell | reaches the decoder |
| `band-beta` | the same, each band weighted by its variance^0.5 | as `band` | reaches the decoder |
| `band-faithful` | the same as `shared`, bit for bit | as `band` | stopped |
| `band-t-faithful` | the same as `shared`, bit for bit | as `band`, and heavy tails | stopped |
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from jeppa.config import Likelihood
from jeppa.distributions import BandGaussian, DiagonalGaussian, DiagonalStudentT, Predictive

Loss = Callable[[Tensor, Any, Tensor], Tensor]
BETA = 0.5


def fixed(x: Tensor, decoded: Predictive, shared_logvar: Tensor) -> Tensor:
    """NLL with sigma 1 for every pixel: half the squared error plus a constant, `[B]` nats.

    Source: Kingma and Welling, arXiv 1312.6114, section 3, with unit decoder variance.
    """
    return -DiagonalGaussian(decoded.mean, torch.zeros_like(shared_logvar)).log_prob(x)


def shared(x: Tensor, decoded: Predictive, shared_logvar: Tensor) -> Tensor:
    """NLL with one variance for all pixels, the mean squared error itself, `[B]` nats.

    The optimal shared variance is the mean squared error; its gradient through the variance vanishes there, so a
    stopped running estimate gives the gradients of the exact one with less noise.
    Source: Rybkin et al., arXiv 2006.13202, equation 6.
    """
    return -DiagonalGaussian(decoded.mean, shared_logvar.detach()).log_prob(x)


def nll(x: Tensor, decoded: Predictive, shared_logvar: Tensor) -> Tensor:
    """NLL of the predicted distribution, of any family, `[B]` nats.

    The gradient of a Gaussian's mean is (mean - x) / variance, so the mean soon stops learning what is hard to predict.
    Source: Kingma and Welling, arXiv 1312.6114, appendix C.2; the trap: Seitzer et al., arXiv 2203.09168, section 3.
    """
    return -decoded.log_prob(x)


def beta_nll(x: Tensor, decoded: Predictive, shared_logvar: Tensor) -> Tensor:
    """Elementwise NLL times (variance / shared variance)^0.5 with the gradient of the weight stopped, `[B]` nats.

    Half way between `nll` and the squared error. The paper weighs by variance^0.5 alone; dividing by the shared one
    gives the same direction and keeps the weight of the KL beside it, whatever the scale of x.
    Source: Seitzer et al., arXiv 2203.09168, equation 4.
    """
    weight = (BETA * (decoded.element_logvar.float() - shared_logvar)).exp().detach()
    return (weight * decoded.element_nll(x)).flatten(1).sum(1)


def faithful(x: Tensor, decoded: Any, shared_logvar: Tensor) -> Tensor:
    """`shared` for the mean plus the NLL with a stopped mean for the variance, `[B]` nats.

    The gradient is stopped at the features that the sigma head reads too (`HeteroscedasticVAE.predict`), so encoder and
    mean are trained exactly as by `shared`, and hard regions are not given up in exchange for a large variance.
    Source: Stirn et al., arXiv 2212.09184, equation 5, with the sigma-VAE's scale on the squared error.
    """
    variance_term = nll(x, replace(decoded, mean=decoded.mean.detach()), shared_logvar)
    return shared(x, decoded, shared_logvar) + variance_term


@dataclass(frozen=True)
class Style:
    """How plots show an arm; all of it differs between any two arms.

    Args:
        light: colour on light paper, `#rrggbb`.
        dark: colour on dark paper.
        dash: line style, as matplotlib takes it: a name, or an offset and the lengths of dashes and gaps.
        marker: matplotlib's name of the marker.
    """

    light: str
    dark: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str


@dataclass(frozen=True)
class Arm:
    """All that distinguishes one likelihood from another.

    Args:
        loss: what is minimised.
        distribution: class of p(x|z), with the members of `Predictive`.
        style: how plots show it.
        variance: where the variance comes from: the sigma head, the running mean squared error, or 1.
        tails: whether the sigma head learns degrees of freedom too, for a distribution with heavy tails.
        mean_of_shared: whether encoder and mean are trained exactly as by `shared`, bit for bit. The gradient of a
            sigma head then stops at its input, and the loss must give the mean the gradient of `shared`.
    """

    loss: Loss
    distribution: type[Predictive]
    style: Style
    variance: Literal["head", "shared", "unit"] = "head"
    tails: bool = False
    mean_of_shared: bool = False

    @property
    def has_head(self) -> bool:
        """Whether there is a sigma head, so that sigma depends on the place."""
        return self.variance == "head"

    @property
    def family(self) -> tuple[type[Predictive], bool, bool]:
        """Equal for two arms when the sigma head of one is of use to the other."""
        return self.distribution, self.tails, self.has_head


LIKELIHOODS: dict[Likelihood, Arm] = {
    "fixed": Arm(
        fixed, DiagonalGaussian, Style("#7d7460", "#b8ad94", (0, (1, 1.4)), "^"), variance="unit",
    ),
    "shared": Arm(
        shared, DiagonalGaussian, Style("#27688a", "#6fb6d8", (0, (3, 1.6)), "s"), variance="shared",
        mean_of_shared=True,
    ),
    "nll": Arm(nll, DiagonalGaussian, Style("#0e380d", "#2c753e", "-.", "D")),
    "beta-nll": Arm(beta_nll, DiagonalGaussian, Style("#b55aff", "#6196ff", (0, (5, 1, 1, 1, 1, 1)), "v")),
    "student-t": Arm(nll, DiagonalStudentT, Style("#1b3041", "#427ab2", (0, (8, 2)), "P"), tails=True),
    "faithful": Arm(faithful, DiagonalGaussian, Style("#b5482f", "#f0845c", "-", "o"), mean_of_shared=True),
    "band": Arm(nll, BandGaussian, Style("#e35a11", "#f7de75", (0, (1, 3)), "X")),
    "band-beta": Arm(beta_nll, BandGaussian, Style("#4ca35a", "#63e0d5", (0, (6, 1.2, 3, 1.2)), "<")),
    "band-faithful": Arm(
        faithful, BandGaussian, Style("#565356", "#deffc5", (0, (2, 3)), "*"), mean_of_shared=True,
    ),
    "band-t-faithful": Arm(
        faithful, BandGaussian, Style("#63979e", "#728180", (0, (4, 1, 1, 1)), "p"), tails=True, mean_of_shared=True,
    ),
}  # fmt: skip
