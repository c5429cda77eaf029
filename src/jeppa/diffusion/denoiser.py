"""The net that predicts v from a noised latent: a stock diffusers UNet2DModel, with or without classes.

`guided` turns it into the `denoise(zt, t)` callable that the loss and the sampler take. Class-free operation
has a label of its own, the null label, one past the last class.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from jeppa.diffusion.schedule import Denoise
from jeppa.errors import ConfigError

MAX_GROUPS = 32


def make_denoiser(
    *,
    sample_size: int,
    latent_channels: int = 4,
    block_out_channels: Sequence[int] = (64, 128, 128),
    layers_per_block: int = 1,
    attention: Sequence[bool] = (False, False, True),
    num_classes: int | None = None,
) -> UNet2DModel:
    """A randomly initialised UNet2DModel for latents.

    Group norm has the largest number of groups up to 32 that divides every level's channels, and attention
    heads have that width. The middle block always attends.

    Args:
        sample_size: height and width of the training latents; recorded in the config, it binds nothing.
        latent_channels: C of the latents.
        block_out_channels: channels of each level; each level after the first halves the resolution.
        layers_per_block: residual blocks of each level on the way down (one more on the way up).
        attention: for each level, whether it attends over all positions.
        num_classes: number of classes, or None for a model without; the null label is added to it.

    Raises:
        ConfigError: if the levels disagree, or a number is below 1.
    """
    numbers = (sample_size, latent_channels, layers_per_block, *block_out_channels)
    if not block_out_channels or len(attention) != len(block_out_channels):
        raise ConfigError(
            f"attention has {len(attention)} entries for {len(block_out_channels)} levels: give one for each"
        )
    if min(numbers) < 1 or (num_classes is not None and num_classes < 1):
        raise ConfigError(
            f"denoiser has sizes {numbers} and num_classes {num_classes}, but each must be at least 1: "
            "correct it, and leave num_classes out for a model without classes"
        )
    groups = math.gcd(MAX_GROUPS, *block_out_channels)
    return UNet2DModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if on else "DownBlock2D" for on in attention),
        up_block_types=tuple("AttnUpBlock2D" if on else "UpBlock2D" for on in reversed(attention)),
        norm_num_groups=groups,
        attention_head_dim=groups,
        num_class_embeds=None if num_classes is None else num_classes + 1,
    )


def null_label(unet: UNet2DModel) -> int:
    """The label that means "no class": one past the last class.

    Raises:
        ConfigError: if the model was made without classes.
    """
    embeddings: int | None = unet.config.num_class_embeds
    if embeddings is None:
        raise ConfigError("this model has no classes, so no labels: leave them out, or train with classes")
    return embeddings - 1


def guided(unet: UNet2DModel, labels: Tensor | None = None, guidance: float = 1.0) -> Denoise:
    """The `denoise(zt, t) -> v` callable of a net, for given labels and classifier-free guidance.

    v is null + guidance * (cond - null): guidance 1 is the conditional prediction (one evaluation of the
    net), 0 the unconditional one, above 1 exaggerates the class. Latents of any height and width are taken:
    they are padded by repeating their edge up to a multiple of the net's stride, and v is cropped back.
    v has the dtype of zt. Gradients flow, so the same callable serves training and sampling.

    Args:
        unet: see `make_denoiser`.
        labels: LongTensor `[B]` of classes, the null label allowed; None asks a model with classes for the
            unconditional prediction.
        guidance: any finite number.

    Raises:
        ConfigError: if labels or guidance do not fit the model; in the call, if the number of labels does
            not fit the batch.

    Source: Ho and Salimans, arXiv 2207.12598, eq. 6 with guidance = 1 + w; linear in eps there, and so in v
    at a given zt.
    """
    if not math.isfinite(guidance):
        raise ConfigError(f"guidance is {guidance}, but must be a finite number: use 1 for none, 2 to 5 for more")
    if labels is None and guidance != 1.0:
        raise ConfigError(f"guidance is {guidance}, but there are no labels to guide to: give labels, or use 1")
    if labels is not None:
        _check_labels(unet, labels)

    def denoise(zt: Tensor, t: Tensor) -> Tensor:
        if unet.config.num_class_embeds is None:
            return _evaluate(unet, zt, t, None)
        null = torch.full((len(zt),), null_label(unet), dtype=torch.long, device=zt.device)
        cond = null if labels is None else labels.to(zt.device)
        if len(cond) != len(zt):
            raise ConfigError(f"{len(cond)} labels for a batch of {len(zt)}: give one for each sample")
        if guidance == 1.0:
            return _evaluate(unet, zt, t, cond)
        v = _evaluate(unet, torch.cat([zt, zt]), torch.cat([t, t]), torch.cat([cond, null]))
        v_cond, v_null = v.chunk(2)
        return v_null + guidance * (v_cond - v_null)

    return denoise


def _check_labels(unet: UNet2DModel, labels: Tensor) -> None:
    null = null_label(unet)
    outside = labels[(labels < 0) | (labels > null)]
    if outside.numel():
        raise ConfigError(
            f"label is {int(outside[0])}, but the model's classes are 0 to {null - 1} "
            f"(and {null} for no class): choose one of them"
        )


def _evaluate(unet: UNet2DModel, zt: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """v at zt's own size and dtype: the net halves the size at all levels but one, so pad, then crop."""
    stride = 2 ** (len(unet.config.block_out_channels) - 1)
    height, width = zt.shape[-2:]
    padded = F.pad(zt, (0, -width % stride, 0, -height % stride), mode="replicate")
    v: Tensor = unet(padded, t, class_labels=labels).sample
    return v[..., :height, :width].to(zt.dtype)
