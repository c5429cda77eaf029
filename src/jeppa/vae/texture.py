"""Texture within sigma: x = mean + k * sigma * tanh(g(features, noise)).

The mean of many possible pictures is blurred where they differ, and a draw from independent pixels looks like salt and
pepper. A texture head adds a residual to the mean instead, no larger than k sigma at any pixel. Where sigma is small
the picture stays exact; where sigma is large the head is free to invent. Encoder, mean and sigma stay the same bit for
bit, and k = 0 gives the mean.

The noise lies on the grid of the latent, so a tile with its part of the noise gives its part of the picture.
"""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from jeppa.config import CELL

LEAST_GRID = 2
"""Least number of pixels along a side of a place of the head; at full resolution it would cost as much as a decoder."""


class TextureHead(ModelMixin, ConfigMixin):
    """Maps decoder features and noise to the direction of the residual at every pixel, in (-1, 1).

    Its last convolution starts at zero, so an untrained head leaves the mean as it is.

    Args:
        feature_channels: channels of the decoder features.
        feature_size: pixels a side that one feature covers: 1, 2, 4 or 8.
        channels: width.
        blocks: residual blocks; each widens the field of view by two places on every side.
        noise_channels: random numbers for each place.
    """

    __module__ = "jeppa"  # the name that a pipeline's model_index.json has

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, feature_channels: int, feature_size: int, channels: int = 64, blocks: int = 3, noise_channels: int = 4
    ) -> None:
        super().__init__()
        self.grid = max(LEAST_GRID, feature_size)
        stride = self.grid // feature_size
        self.from_features = nn.Conv2d(feature_channels, channels, stride, stride)
        self.from_noise = nn.Conv2d(noise_channels, channels, 1)
        self.residuals = nn.ModuleList(_TextureBlock(channels) for _ in range(blocks))
        self.out = nn.Conv2d(channels, 3 * self.grid**2, 3, padding=1, padding_mode="replicate")
        nn.init.zeros_(self.out.weight)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)

    @property
    def latent_noise_channels(self) -> int:
        """Random numbers for each cell of the latent."""
        channels: int = self.config.noise_channels
        return channels * (CELL // self.grid) ** 2

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """Direction of the residual, float32 `[B,3,8h,8w]` in (-1, 1); times k sigma it is added to the mean.

        Args:
            features: `[B,feature_channels,8h/feature_size,8w/feature_size]`.
            noise: standard normal, `[B,latent_noise_channels,h,w]`.
        """
        spread = F.pixel_shuffle(noise, CELL // self.grid).to(self.from_noise.weight.dtype)
        hidden = self.from_features(features) + self.from_noise(spread)
        for residual in self.residuals:
            hidden = residual(hidden)
        return F.pixel_shuffle(self.out(F.silu(hidden)).float(), self.grid).tanh()


class _TextureBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate")
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate")

    def forward(self, hidden: Tensor) -> Tensor:
        update: Tensor = self.conv2(F.silu(self.conv1(F.silu(hidden))))
        return hidden + update


def add_texture(mean: Tensor, logvar: Tensor, direction: Tensor, k: float | Tensor) -> Tensor:
    """mean + k * sigma * direction, `[B,3,H,W]` float32, not clamped.

    Args:
        mean, logvar: of p(x|z), `[B,3,H,W]`.
        direction: what the head gives, in (-1, 1).
        k: how many sigma a pixel may leave the mean by, 0 or more; a number, or one for each place.
    """
    return mean + k * (0.5 * logvar.float()).exp() * direction.float()
