"""The sigma head: log-variance of every pixel from the decoder's features, apart from the mean.

It works on a grid of 8x8-pixel cells, that of the latent, whatever the decoder's layout, so it costs little beside a
decoder at full resolution. It has no statistics over space: its answer for a place does not depend on the size of the
crop.
"""

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from jeppa.student_t import LEAST_DF
from jeppa.vae.contrast import CELL, CHANNELS, log_contrast
from jeppa.vae.curve import RisingCurve

MIN_LOG_SIGMA = -6.0
MAX_LOG_SIGMA = 2.0
LOGVAR_RANGE = (2.0 * MIN_LOG_SIGMA, 2.0 * MAX_LOG_SIGMA)
FIRST_DF = 10.0
# An optimizer step moves every parameter about as far; the logarithm of the tails has a longer way to go.
DF_GAIN = 10.0


class SigmaHead(ModelMixin, ConfigMixin):
    """Maps decoder features and the contrast of the mean to the log-variance of each pixel or band.

    The output is added to a shared log-variance, so an untrained head is the sigma-VAE. `curve` is the identity until
    the head is calibrated.

    Args:
        feature_channels: channels of the decoder features.
        feature_size: pixels a side that one feature covers: 1, 2, 4 or 8.
        channels: width.
        blocks: residual blocks; each widens the field of view by two cells on every side.
        tails: whether there is a learned number of degrees of freedom, for a Student-t likelihood.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, feature_channels: int, feature_size: int, channels: int = 48, blocks: int = 2, tails: bool = False
    ) -> None:
        super().__init__()
        stride = CELL // feature_size
        self.from_features = nn.Conv2d(feature_channels, channels, stride, stride)
        self.from_contrast = nn.Conv2d(CHANNELS, channels, 3, padding=1)
        self.residuals = nn.ModuleList(_Residual(channels) for _ in range(blocks))
        self.out = nn.Conv2d(channels, 3 * CELL * CELL, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)
        if tails:
            self.log_df = nn.Parameter(torch.tensor(math.log(FIRST_DF - LEAST_DF) / DF_GAIN))
        self.curve = RisingCurve(*LOGVAR_RANGE)

    @property
    def degrees(self) -> Tensor:
        """Degrees of freedom, scalar above `LEAST_DF`; only with `tails`."""
        return LEAST_DF + (DF_GAIN * self.log_df).exp()

    def forward(self, features: Tensor, mean: Tensor, shared_logvar: Tensor) -> Tensor:
        """Log-variance `[B,3,H,W]` (natural log, in [-12, 4]), softly bounded.

        Args:
            features: `[B,feature_channels,H/feature_size,W/feature_size]`.
            mean: `[B,3,H,W]` in about [-1,1], H and W multiples of 8.
            shared_logvar: scalar, the log-variance that fits all pixels best.
        """
        contrast = log_contrast(mean).to(self.from_contrast.weight.dtype)
        hidden = self.from_features(features) + self.from_contrast(contrast)
        for residual in self.residuals:
            hidden = residual(hidden)
        detail = nn.functional.pixel_shuffle(self.out(nn.functional.silu(hidden)), CELL).float()
        curved: Tensor = self.curve(bounded_logvar(shared_logvar + detail))
        return curved.clamp(*LOGVAR_RANGE)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.conv1(nn.functional.silu(hidden))
        update: Tensor = self.conv2(nn.functional.silu(inner))
        return hidden + update


def bounded_logvar(raw: Tensor) -> Tensor:
    """Softly bound a log-variance so that log sigma stays within [-6, 2].

    The floor, about the noise of 8-bit rounding, keeps the likelihood of continuous x finite (Mattei and
    Frellsen, NeurIPS 2018); the soft clip follows Rybkin et al., arXiv 2006.13202, section 4. Both ends keep
    a gradient, and any finite input gives a finite output.
    """
    low, high = LOGVAR_RANGE
    above = low + nn.functional.softplus(raw - low)
    return torch.clamp(high - nn.functional.softplus(high - above), min=low)
