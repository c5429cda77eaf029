"""Decoder likelihoods: how far a reconstruction is from its image, in nats.

All share one interface, `loss(x, decoded, shared_logvar) -> [B]`: the negative log-likelihood that is minimised,
summed over colour and place, log(2 pi) included, for x in [-1,1] (8-bit data scaled by 1/127.5). The variance
floor is the sigma head's (log sigma >= -6). What a model *reports* is always `-decoded.log_prob(x)`; the loss may
be another function with other gradients.

| name | mean learns from | variance |
|---|---|---|
| `fixed` | squared error, unit variance | 1, the ordinary VAE |
| `shared` | squared error over the shared variance | one number, the running mean squared error (sigma-VAE) |
| `faithful` | the same as `shared`, bit for bit | per pixel, from a head that sees stopped mean and features |
"""

from collections.abc import Callable

import torch
from torch import Tensor

from jeppa.config import Likelihood
from jeppa.gaussian import DiagonalGaussian

Loss = Callable[[Tensor, DiagonalGaussian, Tensor], Tensor]


def fixed(x: Tensor, decoded: DiagonalGaussian, shared_logvar: Tensor) -> Tensor:
    """NLL with sigma 1 for every pixel: half the squared error plus a constant, `[B]` nats.

    Source: Kingma and Welling, arXiv 1312.6114, section 3, with unit decoder variance.
    """
    return -DiagonalGaussian(decoded.mean, torch.zeros_like(shared_logvar)).log_prob(x)


def shared(x: Tensor, decoded: DiagonalGaussian, shared_logvar: Tensor) -> Tensor:
    """NLL with one variance for all pixels, the mean squared error itself, `[B]` nats.

    The optimal shared variance is the mean squared error; its gradient through the variance vanishes there, so a
    stopped running estimate gives the gradients of the exact one with less noise.
    Source: Rybkin et al., arXiv 2006.13202, equation 6.
    """
    return -DiagonalGaussian(decoded.mean, shared_logvar.detach()).log_prob(x)


def faithful(x: Tensor, decoded: DiagonalGaussian, shared_logvar: Tensor) -> Tensor:
    """`shared` for the mean plus the per-pixel NLL with a stopped mean for the variance, `[B]` nats.

    The features under the variance head are stopped too (`HeteroscedasticVAE.decode`), so encoder and mean are
    trained exactly as by `shared`: hard regions are not given up to a large variance.
    Source: Stirn et al., arXiv 2212.09184, equation 5, with the sigma-VAE's scale on the squared error.
    """
    variance_term = -DiagonalGaussian(decoded.mean.detach(), decoded.logvar).log_prob(x)
    return shared(x, decoded, shared_logvar) + variance_term


LIKELIHOODS: dict[Likelihood, Loss] = {"fixed": fixed, "shared": shared, "faithful": faithful}
PER_PIXEL: frozenset[Likelihood] = frozenset({"faithful"})
