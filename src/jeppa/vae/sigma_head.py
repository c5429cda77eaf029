"""The sigma head: a net beside the decoder that predicts the log-variance of every pixel.

It works on the grid of the latent, cells of 8x8 pixels, so it costs little compared with a decoder at full resolution.
It has no statistics over space: its prediction for a place does not depend on the size of the crop.

Its first inputs are logs of local contrast, because they show how much detail is missing and do not depend on the
picture's colours. A sigma head that sees raw colours or features learns the colours of its training scenes ("dark means
exact") and fails on other scenes. Contrast does not change when a constant is added, and its log turns a change of
contrast into a shift. Rank of sigma against real error on held-out scenes, with and without: `results/ablations.md`.

Calibration fits the last step of the head, a rising curve that maps log-variance to log-variance.
"""

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from jeppa.config import CELL
from jeppa.data.images import LEVELS_PER_UNIT
from jeppa.distributions import LEAST_DF

LEVEL = 1.0 / LEVELS_PER_UNIT
WIDER = (3, 5)
CHANNELS = 3 * CELL * CELL + 3 * (1 + 4 + len(WIDER))

# Where most logs of contrast lie; subtracting it centres the features.
TYPICAL = -3.0
_OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])


def log_contrast(mean: Tensor) -> Tensor:
    """Contrast of a reconstruction on the grid of 8x8-pixel cells, float32 `[B,CHANNELS,H/8,W/8]`.

    The squared gradient of brightness and two opponent colours is given at every pixel of the cell, averaged over
    its quarters, over the cell, and over 3x3 and 5x5 cells; each as log of its root, with a floor of one 8-bit level.

    Args:
        mean: `[B,3,H,W]` in about [-1,1], H and W multiples of 8.
    """
    with torch.autocast(mean.device.type, enabled=False):
        energy = _gradient_energy(mean.float())
    cell = F.avg_pool2d(energy, CELL)
    quarters = F.pixel_unshuffle(F.avg_pool2d(energy, CELL // 2), 2)
    wider = [F.avg_pool2d(cell, side, 1, side // 2, count_include_pad=False) for side in WIDER]
    maps = torch.cat([F.pixel_unshuffle(energy, CELL), cell, quarters, *wider], dim=1)
    return 0.5 * (maps + LEVEL**2).log() - TYPICAL


def _gradient_energy(mean: Tensor) -> Tensor:
    """Squared central differences of the three opponent colours, edges replicated: `[B,3,H,W]`."""
    weights = F.normalize(_OPPONENT, dim=1).to(mean)[..., None, None]
    padded = F.pad(F.conv2d(mean, weights), (1, 1, 1, 1), mode="replicate")
    across = 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2])
    down = 0.5 * (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1])
    return across.square() + down.square()


KNOTS = 8


class RisingCurve(nn.Module):
    """Maps a log-variance to a log-variance: linear between knots, of slope 1 beyond them; at first the identity.

    It rises everywhere, so the order of pixels by sigma does not change. Compare isotonic recalibration,
    Kuleshov et al., arXiv 1807.00263, section 3.1.

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
        knots, values = self.knots.float(), self.values.float()  # half where the whole net was cast to it
        beyond = knots.new_ones(1)
        slope = torch.cat([beyond, values.diff() / knots.diff(), beyond])
        # The first two pieces meet in the first knot, each later piece begins in a knot of its own.
        intercept = torch.cat([values[:1], values]) - slope * torch.cat([knots[:1], knots])
        piece = torch.bucketize(logvar.detach().contiguous(), knots)
        return slope[piece] * logvar + intercept[piece]

    @torch.no_grad()
    def bend(self, at: Tensor, to: Tensor) -> None:
        """Let the curve pass through the points (at, to), `[KNOTS]` each and in rising order.

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


MIN_LOG_SIGMA = -6.0
MAX_LOG_SIGMA = 2.0
LOGVAR_RANGE = (2.0 * MIN_LOG_SIGMA, 2.0 * MAX_LOG_SIGMA)
FIRST_DF = 10.0

# An optimizer step moves all parameters about equally far, but the logarithm of the tails has farther to go.
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

    __module__ = "jeppa"  # the name that a pipeline's model_index.json has
    _keep_in_fp32_modules = ["curve"]  # noqa: RUF012 - as diffusers reads it

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, feature_channels: int, feature_size: int, channels: int = 48, blocks: int = 2, tails: bool = False
    ) -> None:
        super().__init__()
        stride = CELL // feature_size
        self.from_features = nn.Conv2d(feature_channels, channels, stride, stride)
        self.from_contrast = nn.Conv2d(CHANNELS, channels, 3, padding=1)
        self.residuals = nn.ModuleList(_SigmaBlock(channels) for _ in range(blocks))
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
        curved: Tensor = self.curve(bound_logvar(shared_logvar + detail))
        return curved.clamp(*LOGVAR_RANGE)


class _SigmaBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.conv1(nn.functional.silu(hidden))
        update: Tensor = self.conv2(nn.functional.silu(inner))
        return hidden + update


def bound_logvar(raw: Tensor) -> Tensor:
    """Softly bound a log-variance so that log sigma stays within [-6, 2].

    The floor, about the noise of 8-bit rounding, keeps the likelihood of continuous x finite (Mattei and
    Frellsen, NeurIPS 2018); the soft clip follows Rybkin et al., arXiv 2006.13202, section 4. Both ends keep
    a gradient, and any finite input gives a finite output.
    """
    low, high = LOGVAR_RANGE
    above = low + nn.functional.softplus(raw - low)
    return torch.clamp(high - nn.functional.softplus(high - above), min=low)
