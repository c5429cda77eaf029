"""Our denoiser in the place of a pipeline's UNet, so that the learned variance reaches the scheduler.

    pipe = LDMPipeline(vqvae, VarianceUNet(denoiser), scheduler)
    pipe.scheduler = HeteroscedasticDDIMScheduler.for_latents(denoiser.kind)

The pipeline passes on what it is given, and the scheduler splits it. DDIMPipeline makes its scheduler a DDIMScheduler
when it is made, so there ours is set afterwards, as here.
"""

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from jeppa.diffusion.denoiser import Denoiser, make_denoise
from jeppa.errors import ConfigError


class VarianceUNet(nn.Module):
    """Answers as a UNet2DModel of 2C output channels: the prediction, then the log-variance of its error.

    Args:
        denoiser: with a variance head.
        labels: LongTensor `[B]`, the class of each picture of a batch, for pipelines that pass none; None for the
            unconditional prediction.
        guidance: of the labels, see `make_denoise`; the log-variance is that of the conditional prediction.

    Raises:
        ConfigError: if the denoiser has no variance head.
    """

    def __init__(self, denoiser: Denoiser, labels: Tensor | None = None, guidance: float = 1.0) -> None:
        super().__init__()
        if denoiser.head is None:
            raise ConfigError("the denoiser has no variance head: train one, or give the pipeline its unet")
        self.denoiser = denoiser
        self.labels = labels
        self.guidance = guidance
        config, patch = denoiser.unet.config, denoiser.patch
        channels = config.in_channels // patch**2
        self.config = FrozenDict(
            {
                "in_channels": channels,
                "out_channels": 2 * channels,
                "sample_size": config.sample_size * patch,
                "num_class_embeds": config.num_class_embeds,
            }
        )

    @property
    def dtype(self) -> torch.dtype:
        """That of the net's weights."""
        found: torch.dtype = self.denoiser.unet.dtype
        return found

    @property
    def device(self) -> torch.device:
        """That of the net's weights."""
        found: torch.device = self.denoiser.unet.device
        return found

    def forward(
        self, sample: Tensor, timestep: int | Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Prediction and log-variance, `[B,2C,h,w]`.

        Args:
            sample: noised latent `[B,C,h,w]`, of any height and width.
            timestep: one, or `[B]`.
            class_labels: LongTensor `[B]`, instead of `labels`.
            return_dict: whether to return an object with `sample`, or a tuple.
        """
        labels = self.labels if class_labels is None else class_labels
        t = torch.as_tensor(timestep, dtype=torch.long, device=sample.device).expand(len(sample))
        found = make_denoise(self.denoiser, labels, self.guidance)(sample, t)
        if found.logvar is None:
            raise ConfigError("the denoiser has lost its variance head: make the wrapper anew")
        both = torch.cat([found.mean, found.logvar.to(found.mean)], 1)
        return UNet2DOutput(sample=both) if return_dict else (both,)
