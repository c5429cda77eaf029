"""The net that predicts v, eps or x0 from a noised latent, and the variance of its own error.

The net is a stock diffusers UNet2DModel, with or without classes, and a variance head beside it. `make_denoise` turns
them into the `denoise(zt, t)` callable that the loss and the sampler take. A net with classes has one label more, the
null label, which means "no class" and comes after the last class.

The variance head predicts, element by element, how far off the denoiser's prediction is. It reads the denoiser's last
features but sends no gradient into them, so the mean stays that of an ordinary denoiser, and a head can be added to a
denoiser that is already trained. Sources: faithful heteroscedastic regression, Stirn et al., arXiv 2212.09184, applied
to the residual of the noise prediction, Bao et al., arXiv 2206.07309 (NPR).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import silu

from jeppa.config import PredictionKind
from jeppa.diffusion.prediction import Denoise, Prediction, check_kind
from jeppa.errors import ConfigError

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

    __module__ = "jeppa"  # the name that a pipeline's model_index.json has

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, feature_channels: int, time_channels: int, latent_channels: int, channels: int = 48, blocks: int = 1
    ) -> None:
        super().__init__()
        self.from_features = nn.Conv2d(feature_channels, channels, 3, padding=1)
        self.from_latents = nn.Conv2d(2 * latent_channels, channels, 3, padding=1)
        self.from_time = nn.Linear(time_channels, channels)
        self.residuals = nn.ModuleList(_VarianceResidual(channels, time_channels) for _ in range(blocks))
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


class _VarianceResidual(nn.Module):
    def __init__(self, channels: int, time_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = nn.Linear(time_channels, channels)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        inner = self.conv1(silu(hidden)) * (1.0 + self.scale(embedded)[..., None, None])
        update: Tensor = self.conv2(silu(inner))
        return hidden + update


MAX_GROUPS = 32

# A group of one channel would take away what the embeddings of time and class add to that channel.
LEAST_GROUP = 4


class Denoiser(nn.Module):
    """A denoising net and the head that predicts the variance of its error.

    Args:
        unet: see `make_unet`.
        kind: what the net predicts.
        variance_channels: width of the variance head; None for none.
        patch: cells a side of the latent that net and head see as one, with `patch**2` times the channels. Peebles and
            Xie, arXiv 2212.09748, section 3.2.

    Raises:
        ConfigError: if `kind` is unknown.
    """

    def __init__(self, unet: UNet2DModel, kind: PredictionKind, variance_channels: int | None, patch: int = 1) -> None:
        super().__init__()
        check_kind(kind)
        self.kind = kind
        self.patch = patch
        self.unet = unet
        self.head: VarianceHead | None = None
        if variance_channels is not None:
            config = unet.config
            time_channels = unet.time_embedding.linear_2.out_features
            self.head = VarianceHead(config.block_out_channels[0], time_channels, config.in_channels, variance_channels)

    def forward(self, zt: Tensor, t: Tensor, labels: Tensor | None = None) -> Prediction:
        """The prediction for latents `[B,C,h,w]` whose sides `stride` divides, on their device whatever the net's.

        Args:
            zt: noised latents.
            t: LongTensor `[B]`.
            labels: LongTensor `[B]` of classes, for a net with classes.
        """
        device_of_input, device = zt.device, self.unet.device
        zt = F.pixel_unshuffle(zt.to(device), self.patch)
        t, labels = t.to(device), None if labels is None else labels.to(device)
        if self.head is None:
            mean = self._mean(zt, t, labels).to(device_of_input)
            return Prediction(F.pixel_shuffle(mean, self.patch), None, self.kind)
        inner: dict[str, Tensor] = {}
        hooks = [
            self.unet.conv_out.register_forward_pre_hook(lambda _, inputs: inner.update(features=inputs[0].detach())),
            self.unet.time_embedding.register_forward_hook(lambda _, __, output: inner.update(time=output.detach())),
        ]
        try:
            mean = self._mean(zt, t, labels)
        finally:
            for hook in hooks:
                hook.remove()
        logvar = self.head(inner["features"], zt, mean.detach(), inner["time"])
        mean, logvar = (F.pixel_shuffle(moment.to(device_of_input), self.patch) for moment in (mean, logvar))
        return Prediction(mean, logvar, self.kind)

    @property
    def stride(self) -> int:
        """The sides of the latents that `forward` takes must be multiples of this."""
        halvings = len(self.unet.config.block_out_channels) - 1
        return int(self.patch * 2**halvings)

    def _mean(self, zt: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        predicted: Tensor = self.unet(zt.to(self.unet.dtype), t, class_labels=labels).sample
        return predicted.float()


def make_unet(
    *,
    sample_size: int,
    latent_channels: int,
    block_out_channels: Sequence[int],
    layers_per_block: int,
    attention: Sequence[bool],
    num_classes: int | None,
) -> UNet2DModel:
    """A randomly initialised UNet2DModel for latents.

    Group norm has the largest number of groups up to 32 that divides every level's channels and leaves at least four
    channels to a group, where the widths allow. Attention heads have the width of the largest common divisor up to 32.
    The middle block always attends.

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
    shared = math.gcd(MAX_GROUPS, *block_out_channels)
    groups = shared
    while groups > 1 and groups % 2 == 0 and groups * LEAST_GROUP > min(block_out_channels):
        groups //= 2
    return UNet2DModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if on else "DownBlock2D" for on in attention),
        up_block_types=tuple("AttnUpBlock2D" if on else "UpBlock2D" for on in reversed(attention)),
        norm_num_groups=groups,
        attention_head_dim=shared,
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


def make_denoise(denoiser: Denoiser, labels: Tensor | None = None, guidance: float = 1.0) -> Denoise:
    """The `denoise(zt, t)` callable of a net, for given labels and classifier-free guidance.

    The mean is null + guidance * (cond - null): guidance 1 is the conditional prediction (one evaluation of the
    net), 0 the unconditional one, above 1 exaggerates the class. The logvar is that of the conditional prediction:
    what guidance adds is a choice, not an error. Latents of any height and width are taken: they are padded by
    repeating their edge up to a multiple of the net's stride, and the answer is cropped back to them. The mean has the
    dtype of zt. Gradients flow, so the same callable serves training and sampling.

    Args:
        denoiser: net and head.
        labels: LongTensor of classes, `[B]`, or `[1]` for one class in all of a batch; the null label is allowed. None
            asks a model with classes for the unconditional prediction.
        guidance: any finite number.

    Raises:
        ConfigError: if labels or guidance do not fit the model; in the call, if the number of labels does
            not fit the batch.

    Source: Ho and Salimans, arXiv 2207.12598, eq. 6 with guidance = 1 + w; linear in eps there, and so in v and x0
    at a given zt.
    """
    unet = denoiser.unet
    if not math.isfinite(guidance):
        raise ConfigError(f"guidance is {guidance}, but must be a finite number: use 1 for none, 2 to 5 for more")
    if labels is None and guidance != 1.0:
        raise ConfigError(f"guidance is {guidance}, but there are no labels to guide to: give labels, or use 1")
    if labels is not None:
        _check_labels(unet, labels)

    def denoise(zt: Tensor, t: Tensor) -> Prediction:
        if unet.config.num_class_embeds is None:
            return _evaluate(denoiser, zt, t, None)
        null = torch.full((len(zt),), null_label(unet), dtype=torch.long, device=zt.device)
        cond = null if labels is None else labels.to(zt.device)
        if len(cond) not in (1, len(zt)):
            raise ConfigError(f"{len(cond)} labels for a batch of {len(zt)}: give one for each sample")
        cond = cond.expand(len(zt))
        if guidance == 1.0:
            return _evaluate(denoiser, zt, t, cond)
        both = _evaluate(denoiser, torch.cat([zt, zt]), torch.cat([t, t]), torch.cat([cond, null]))
        with_class, without = both.mean.chunk(2)
        logvar = None if both.logvar is None else both.logvar[: len(zt)]
        return Prediction(without + guidance * (with_class - without), logvar, both.kind)

    return denoise


def _check_labels(unet: UNet2DModel, labels: Tensor) -> None:
    null = null_label(unet)
    outside = labels[(labels < 0) | (labels > null)]
    if outside.numel():
        raise ConfigError(
            f"label is {int(outside[0])}, but the model's classes are 0 to {null - 1} "
            f"(and {null} for no class): choose one of them"
        )


def _evaluate(denoiser: Denoiser, zt: Tensor, t: Tensor, labels: Tensor | None) -> Prediction:
    """Evaluate the net at any size of zt: pad to a multiple of the net's stride, and crop the answer back."""
    height, width = zt.shape[-2:]
    padded = F.pad(zt, (0, -width % denoiser.stride, 0, -height % denoiser.stride), mode="replicate")
    answer: Prediction = denoiser(padded, t, labels)
    logvar = None if answer.logvar is None else answer.logvar[..., :height, :width]
    return Prediction(answer.mean[..., :height, :width].to(zt.dtype), logvar, answer.kind)
