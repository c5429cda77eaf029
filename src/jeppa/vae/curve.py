"""A rising curve that gives the log-variance of a sigma head its size."""

import torch
from torch import Tensor, nn

KNOTS = 8


class RisingCurve(nn.Module):
    """Maps a log-variance to a log-variance: straight between knots, shifted beyond them; at first the identity.

    It rises everywhere, so the order of pixels by sigma stays. Compare isotonic recalibration, Kuleshov et al., arXiv
    1807.00263, section 3.1.

    Args:
        low: where the first knot of the identity lies.
        high: where its last one lies.
    """

    knots: Tensor
    values: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(low, high, KNOTS))
        self.register_buffer("values", torch.linspace(low, high, KNOTS))

    def forward(self, logvar: Tensor) -> Tensor:
        """The mapped log-variance, shape of `logvar`."""
        beyond = self.knots.new_ones(1)
        slope = torch.cat([beyond, self.values.diff() / self.knots.diff(), beyond])
        # The first two pieces meet in the first knot, each later one begins in its own.
        intercept = torch.cat([self.values[:1], self.values]) - slope * torch.cat([self.knots[:1], self.knots])
        piece = torch.bucketize(logvar.detach().contiguous(), self.knots)
        return slope[piece] * logvar + intercept[piece]

    @torch.no_grad()
    def bend(self, at: Tensor, to: Tensor) -> None:
        """Lead the curve through the points (at, to), `[KNOTS]` each and in rising order.

        Raises:
            ValueError: they do not rise.
        """
        if not bool((at.diff() > 0).all() and (to.diff() > 0).all()):
            raise ValueError("the knots of the curve must rise in both coordinates")
        self.knots.copy_(at)
        self.values.copy_(to)

    @torch.no_grad()
    def straighten(self) -> None:
        """Make it the identity again."""
        self.values.copy_(self.knots)
