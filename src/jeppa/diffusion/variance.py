"""The variance head: how far off the denoiser expects its own prediction to be, element by element.

It stands on the denoiser's last features and gives them no gradient, so the mean is that of an ordinary denoiser, and a
head can be added to one that is already trained. Faithful heteroscedastic regression, Stirn et al., arXiv 2212.09184,
applied to the residual of the noise prediction of Bao et al., arXiv 2206.07309 (NPR).
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import silu

MIN_LOGVAR = -14.0
MAX_LOGVAR = 4.0


class VarianceHead(ModelMixin, ConfigMixin):
    """Maps the denoiser's features, its input, its mean and the timestep to a log-variance.

    The untrained head says 0: an error of the size of standardised data.

    Args:
        feature_channels: channels of the features before the denoiser's last convolution.
        time_channels: width of its timestep embedding.
        latent_channels: C of the latents.
        channels: width.
        blocks: residual blocks.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, feature_channels: int, time_channels: int, latent_channels: int, channels: int = 48, blocks: int = 1
    ) -> None:
        super().__init__()
        self.from_features = nn.Conv2d(feature_channels, channels, 3, padding=1)
        self.from_latents = nn.Conv2d(2 * latent_channels, channels, 3, padding=1)
        self.from_time = nn.Linear(time_channels, channels)
        self.residuals = nn.ModuleList(_Residual(channels, time_channels) for _ in range(blocks))
        self.out = nn.Conv2d(channels, latent_channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, zt: Tensor, mean: Tensor, time: Tensor) -> Tensor:
        """Natural log of the variance of the error of `mean`, float32 `[B,C,h,w]` in [-14, 4].

        Args:
            features: `[B,feature_channels,h,w]`.
            zt: noised latent `[B,C,h,w]`.
            mean: the prediction, same shape.
            time: timestep embedding `[B,time_channels]`.
        """
        embedded = silu(time)
        latents = torch.cat([zt, mean], 1).to(self.from_latents.weight.dtype)
        hidden = self.from_features(features) + self.from_latents(latents)
        hidden = hidden + self.from_time(embedded)[..., None, None]
        for residual in self.residuals:
            hidden = residual(hidden, embedded)
        logvar: Tensor = self.out(silu(hidden)).float()
        return logvar.clamp(MIN_LOGVAR, MAX_LOGVAR)


class _Residual(nn.Module):
    def __init__(self, channels: int, time_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = nn.Linear(time_channels, channels)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        inner = self.conv1(silu(hidden)) * (1.0 + self.scale(embedded)[..., None, None])
        update: Tensor = self.conv2(silu(inner))
        return hidden + update
