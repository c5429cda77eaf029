"""Tells pictures from textured reconstructions, place by place, by how each departs from the mean.

A U-Net, so that its verdict has a place (Schönfeld et al., arXiv 2002.12655), given what the generator knows: the mean
and sigma. Verdicts are compared in pairs of one place, real against made (the relativistic pairing of
Jolicoeur-Martineau, arXiv 1807.00734), which asks for texture of the right kind *here*. A gradient penalty would need
second derivatives; instead the verdict must not change under a little noise (Lin et al., arXiv 2501.08316, section
3.4).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUTS = 9
PENALTY_NOISE = 0.05
"""Deviation of the noise under which a verdict must stay, in units of [-1,1]."""
SLOPE = 0.2
LOGVAR_CENTRE, LOGVAR_SPAN = -5.0, 2.0
"""About where log-variances lie, so that the net sees numbers of about unit size."""


class Discriminator(nn.Module):
    """Verdict for every 2x2 pixels, above 0 for real.

    Args:
        channels: width at the finest level; twice and three times as many at the two coarser ones.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        fine, middle, coarse = channels, 2 * channels, 3 * channels
        self.conv_in = nn.Conv2d(4 * INPUTS, fine, 3, padding=1)
        self.down1 = nn.Conv2d(fine, middle, 4, 2, padding=1)
        self.down2 = nn.Conv2d(middle, coarse, 4, 2, padding=1)
        self.middle = nn.Conv2d(coarse, coarse, 3, padding=1)
        self.up2 = nn.Conv2d(coarse, 4 * middle, 1)
        self.join2 = nn.Conv2d(2 * middle, middle, 3, padding=1)
        self.up1 = nn.Conv2d(middle, 4 * fine, 1)
        self.join1 = nn.Conv2d(2 * fine, fine, 3, padding=1)
        self.out = nn.Conv2d(fine, 1, 3, padding=1)

    def forward(self, x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        """Verdict `[B,1,H/2,W/2]` on pictures `[B,3,H,W]`, H and W multiples of 8, given mean and log-variance."""
        known = torch.cat([x, mean, (logvar - LOGVAR_CENTRE) / LOGVAR_SPAN], dim=1)
        fine = F.leaky_relu(self.conv_in(F.pixel_unshuffle(known, 2)), SLOPE)
        middle = F.leaky_relu(self.down1(fine), SLOPE)
        coarse = F.leaky_relu(self.down2(middle), SLOPE)
        coarse = F.leaky_relu(self.middle(coarse), SLOPE)
        middle = F.leaky_relu(self.join2(torch.cat([middle, F.pixel_shuffle(self.up2(coarse), 2)], 1)), SLOPE)
        fine = F.leaky_relu(self.join1(torch.cat([fine, F.pixel_shuffle(self.up1(middle), 2)], 1)), SLOPE)
        verdict: Tensor = self.out(fine)
        return verdict


def pairing_loss(better: Tensor, worse: Tensor) -> Tensor:
    """How little `better` is above `worse`, `[B]`: softplus(worse - better), the mean over places."""
    return F.softplus(worse.float() - better.float()).flatten(1).mean(1)
