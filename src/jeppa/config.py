"""All settings of models, runs and samplers, as validated models with a description of each field.

Every setting is defined once, as a field here. The command line takes its flags, defaults and help from these fields, a
run folder's `config.yaml` holds them, and an unknown key is an error that names the nearest known one.

Nothing here imports torch, which takes seconds, so that the command line shows its help at once. What depends on the
likelihood is therefore not here but in `jeppa.vae.likelihoods`.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from jeppa.errors import ConfigError
from jeppa.files import read_yaml, shorten

Likelihood = Literal[
    "faithful", "band-faithful", "band-t-faithful", "shared", "fixed", "nll", "beta-nll", "student-t", "band",
    "band-beta",
]  # fmt: skip
Basis = Literal["dct", "lapped"]

# The names of `prediction_type` in diffusers.
PredictionKind = Literal["v_prediction", "epsilon", "sample"]
Architecture = Literal["kl", "pyramid", "taesd"]
TinyActivation = Literal["relu", "gelu", "silu", "mish"]
Preset = Literal["tiny", "small", "sd"]
Precision = Literal["auto", "exact", "bf16"]
LPIPS_SIDE = 32
MAX_SIDE = 8192

# Limits of what a stranger's file can describe, so that even the largest model is outlined in no time.
MAX_WIDTH = 8192
MAX_LAYERS = 32
MAX_CLASSES = 1_000_000
MAX_LEVELS = 6

CELL = 8
"""Pixels along a side of a cell, for which sigma heads and band likelihoods predict."""
FACTORS = (4, 8, 16, 32)
"""How many times smaller than a picture a latent may be, along a side."""

# Upper limit of every count; more can only be a typing error.
MAX_COUNT = 1_000_000_000
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Layers = Annotated[int, Field(ge=0, le=MAX_LAYERS)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TinyCodecConfig(Settings):
    """What an AutoencoderTiny has beside its `VAEConfig`, under the names that diffusers gives it."""

    encoder_block_out_channels: tuple[Width, ...] = Field((64, 64, 64, 64), min_length=2, max_length=MAX_LEVELS)
    decoder_block_out_channels: tuple[Width, ...] = Field((64, 64, 64, 64), min_length=2, max_length=MAX_LEVELS)
    num_encoder_blocks: tuple[Layers, ...] = Field((1, 3, 3, 3), min_length=2, max_length=MAX_LEVELS)
    num_decoder_blocks: tuple[Layers, ...] = Field((3, 3, 3, 1), min_length=2, max_length=MAX_LEVELS)
    act_fn: TinyActivation = "relu"

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        counts = {
            len(self.encoder_block_out_channels), len(self.decoder_block_out_channels), len(self.num_encoder_blocks),
            len(self.num_decoder_blocks),
        }  # fmt: skip
        if len(counts) > 1:
            raise ValueError("an AutoencoderTiny has as many levels in its encoder as in its decoder")
        return self


class VAEConfig(Settings):
    """Architecture of a `HeteroscedasticVAE`: an autoencoder and the sigma head beside it."""

    architecture: Architecture = Field(
        "kl",
        description="kl is diffusers' AutoencoderKL; pyramid has a linear path beside its net and no group norm; taesd "
        "is diffusers' AutoencoderTiny, whose encoder gives no variance.",
    )
    pixel_unshuffle: Literal[1, 2, 4, 8] = Field(
        description="Side in pixels of the blocks that the first layer takes as one; 1 is the plain AutoencoderKL."
    )
    block_out_channels: tuple[Width, ...] = Field(
        min_length=1, max_length=MAX_LEVELS, description="Width of each resolution level, the finest first."
    )
    layers_per_block: int = Field(ge=1, le=MAX_LAYERS, description="Residual blocks at each level.")
    latent_channels: int = Field(4, ge=1, le=256, description="Channels of the latent.")
    norm_num_groups: int = Field(1, ge=1, le=MAX_WIDTH, description="Groups of the group normalisation of kl.")
    mid_block_attention: bool = Field(False, description="Self-attention in the middle block of kl.")
    quant_conv: bool = Field(True, description="A 1x1 convolution behind the encoder of kl.")
    post_quant_conv: bool = Field(True, description="A 1x1 convolution before the decoder of kl.")
    tiny: TinyCodecConfig | None = Field(None, description="The rest of the architecture of taesd.")
    sigma_channels: int = Field(ge=8, le=MAX_WIDTH, description="Width of the sigma head.")
    sigma_blocks: int = Field(2, ge=0, le=MAX_LAYERS, description="Residual blocks of the sigma head.")
    basis: Basis = Field("lapped", description="Transform in which band likelihoods are diagonal.")

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        if self.factor not in FACTORS:
            raise ValueError(
                f"pixel_unshuffle {self.pixel_unshuffle} with {len(self.block_out_channels)} levels shrinks an "
                f"image {self.factor} times, but a latent is 4, 8, 16 or 32 times smaller: for 8 use 4, 3, 2 or 1 "
                "levels for 1, 2, 4 or 8"
            )
        if self.architecture == "pyramid" and (self.pixel_unshuffle, self.factor) != (2, 8):
            raise ValueError("a pyramid has three levels behind pixel_unshuffle 2")
        if (self.tiny is not None) != (self.architecture == "taesd"):
            raise ValueError("taesd needs the settings under tiny, and no other architecture has them")
        if self.tiny and self.tiny.decoder_block_out_channels != self.block_out_channels[::-1]:
            raise ValueError("block_out_channels of taesd are the decoder_block_out_channels, the finest first")
        if self.tiny and self.pixel_unshuffle != 1:
            raise ValueError("taesd takes single pixels: pixel_unshuffle is 1")
        odd = [width for width in self.block_out_channels if width % self.norm_num_groups]
        if odd:
            raise ValueError(f"a level of {odd[0]} channels has no {self.norm_num_groups} equal norm_num_groups")
        return self

    @property
    def factor(self) -> int:
        """Pixels along a side of a place of the latent: 4, 8, 16 or 32."""
        return int(self.pixel_unshuffle) << (len(self.block_out_channels) - 1)

    @property
    def multiple(self) -> int:
        """What the sides of a picture have to be multiples of: `factor`, but at least 8, a cell of the sigma head."""
        return max(CELL, self.factor)


PRESETS: dict[str, VAEConfig] = {
    "tiny": VAEConfig(
        pixel_unshuffle=8, block_out_channels=(32,), layers_per_block=1, norm_num_groups=8,
        mid_block_attention=False, sigma_channels=16, sigma_blocks=1,
    ),
    "small": VAEConfig(
        pixel_unshuffle=8, block_out_channels=(128,), layers_per_block=1, norm_num_groups=8,
        mid_block_attention=False, sigma_channels=96,
    ),
    "sd": VAEConfig(
        pixel_unshuffle=1, block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32,
        mid_block_attention=True, sigma_channels=64,
    ),
}  # fmt: skip


class TextureConfig(Settings):
    """Architecture of a texture head."""

    channels: int = Field(64, ge=8, le=MAX_WIDTH, description="Width of the texture head.")
    blocks: int = Field(3, ge=0, le=MAX_LAYERS, description="Residual blocks of the texture head.")
    noise_channels: int = Field(4, ge=1, le=256, description="Random numbers that the texture head gets at each place.")


class DenoiserConfig(Settings):
    """Architecture of the latent denoiser, diffusers' UNet2DModel, and of the variance head beside it."""

    block_out_channels: tuple[Width, ...] = Field(
        (64, 128, 128), min_length=1, max_length=8, description="Width of each level."
    )
    layers_per_block: int = Field(1, ge=1, le=MAX_LAYERS, description="Residual blocks at each level.")
    attention: tuple[bool, ...] = Field((False, True, True), description="Self-attention at each level.")
    num_classes: int | None = Field(
        None, ge=1, le=MAX_CLASSES, description="Number of labels; None for an unconditional model."
    )
    patch: Literal[1, 2, 4] = Field(
        1, description="Side of the blocks of the latent that the net takes as one; 2 makes it four times cheaper."
    )
    variance_channels: int = Field(48, ge=1, le=MAX_WIDTH, description="Width of the variance head.")

    @model_validator(mode="after")
    def _one_flag_a_level(self) -> Self:
        if len(self.attention) != len(self.block_out_channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries for {len(self.block_out_channels)} levels: "
                "give one for each"
            )
        return self


class DataConfig(Settings):
    """Which images, and how crops are cut from them."""

    data: str = Field(
        "builtin:photos", min_length=1, description="Folder, zip file, shards (.tar, .parquet) or builtin:photos."
    )
    resolution: int = Field(64, ge=8, le=MAX_SIDE, multiple_of=8, description="Side of a training crop in pixels.")
    sizes: int = Field(
        3, ge=1, le=4,
        description="Train a VAE on crops of 1, 2, 4, ... times the resolution, this many sizes in turn."
    )  # fmt: skip
    min_view: float = Field(
        0.0, ge=0.0, le=1.0,
        description="Least share of an image's short side that a crop covers; 0 goes down to native pixels."
    )  # fmt: skip
    flip: bool = Field(True, description="Mirror half of the crops.")
    colour_jitter: float = Field(
        0.0, ge=0.0, le=1.0,
        description="Strength of random changes of colour, so that the colours of few images are not memorised."
    )  # fmt: skip
    patterns: float = Field(
        0.0, ge=0.0, le=1.0,
        description="Share of crops drawn instead of cut: plain colours, gradients, stripes, nets and strokes."
    )  # fmt: skip
    max_unreadable: float = Field(
        0.01, ge=0.0, le=1.0, description="Largest share of images that may be unreadable and are left out."
    )
    names_encoding: str | None = Field(
        None, description="Code page of the names in a zip that does not say it, such as cp866."
    )
    heldout: Literal["auto", "none"] = Field(
        "auto",
        description="auto holds out a part of the images, for sample sheets and figures; none trains on all of them.",
    )
    workers: int = Field(0, ge=0, le=64, description="Processes that read images for the training process.")
    cache_megabytes: int = Field(
        2048, ge=0, description="Memory for decoded images, divided among the workers; 0 keeps none of them."
    )


class OptimConfig(Settings):
    """How long and how fast to train, and how often to log and to save."""

    steps: int = Field(2000, ge=1, le=MAX_COUNT, description="Optimizer steps.")
    batch_size: int = Field(8, ge=1, le=MAX_COUNT, description="Images in a step.")
    micro_batch: int | None = Field(
        None, ge=1, le=MAX_COUNT,
        description="Images computed at a time, to save memory; the result of the step is that of the whole batch. Of "
        "larger crops fewer are computed at a time, but at least one.",
    )  # fmt: skip
    learning_rate: float = Field(3e-4, gt=0.0, le=1.0, description="Peak learning rate of AdamW.")
    warmup_steps: int = Field(100, ge=0, le=MAX_COUNT, description="Steps of linear warm-up before the cosine decay.")
    clip_norm: float = Field(1.0, gt=0.0, description="Largest gradient norm, for each optimizer group.")
    ema_decay: float = Field(0.999, ge=0.0, lt=1.0, description="Decay of the averaged weights.")
    precision: Annotated[Precision, BeforeValidator(lambda value: "exact" if value == "fp32" else value)] = Field(
        "auto", description="auto measures what is fastest; exact is fp32 in the default layout; bf16 is not measured."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, about a third more time."
    )
    log_every: int = Field(20, ge=1, le=MAX_COUNT, description="Steps between lines of log.jsonl.")
    sample_every: int = Field(500, ge=1, le=MAX_COUNT, description="Steps between sample sheets.")
    save_every: int = Field(500, ge=1, le=MAX_COUNT, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, le=MAX_COUNT, description="Checkpoints to keep.")


class VAERun(Settings):
    """A VAE training run: the content of its `config.yaml`."""

    kind: Literal["vae"] = "vae"
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights, data order and noise.")
    preset: Preset | None = Field("small", description="Name of the architecture; None when `model` is given.")
    model: VAEConfig = Field(default_factory=lambda: PRESETS["small"], description="The architecture.")
    likelihood: Likelihood = Field("faithful", description="How the decoder's variance is learned.")
    frozen: Literal["encoder", "mean"] | None = Field(
        None,
        description="What stays frozen of the VAE that training starts from: its encoder, so that denoisers of its "
        "latents still fit, or encoder and mean, so that only the sigma head learns.",
    )
    beta: float = Field(1.0, ge=0.0, description="Weight of the KL term; 1 is the evidence lower bound.")
    rate: float | None = Field(
        None, gt=0.0, description="Bits per dimension that the latent may cost; beta adapts to it. None keeps beta."
    )
    kl_warmup_steps: int = Field(
        0, ge=0, le=MAX_COUNT, description="Steps in which the weight of the KL term rises from 0."
    )
    free_bits: float = Field(
        0.0, ge=0.0, description="Bits of each latent channel at each place that the KL term does not penalise."
    )
    perceptual: float = Field(
        0.0, ge=0.0, description="Weight of the LPIPS (AlexNet) of the mean in the loss, in nats per dimension."
    )
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="before")
    @classmethod
    def _model_from_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and "model" not in values:
            preset = values.get("preset", "small")
            if preset in PRESETS:
                return {**values, "model": PRESETS[preset]}
        return values

    @model_validator(mode="after")
    def _lpips_sees_something(self) -> Self:
        if self.perceptual > 0.0 and self.data.resolution < LPIPS_SIDE:
            raise ValueError(f"perceptual needs crops of at least {LPIPS_SIDE} pixels, not {self.data.resolution}")
        return self

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        if self.frozen == "mean" and self.perceptual > 0.0:
            raise ValueError(
                "frozen: mean leaves nothing but the sigma head to learn, but perceptual trains the mean: leave one of "
                "them out"
            )
        return self

    @model_validator(mode="after")
    def _preset_is_true(self) -> Self:
        if self.preset is not None and PRESETS[self.preset] != self.model:
            raise ValueError(f"model differs from preset {self.preset}: set preset to null for your own architecture")
        return self


class DiffusionRun(Settings):
    """A latent diffusion training run: the content of its `config.yaml`."""

    kind: Literal["diffusion"] = "diffusion"
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights, data order and noise.")
    vae: str = Field(description="Run folder of the trained VAE.")
    model: DenoiserConfig = DenoiserConfig()
    prediction: PredictionKind = Field("v_prediction", description="What the net predicts: v, the noise or x0.")
    variance: bool = Field(True, description="Learn the variance of the prediction too; the prediction stays the same.")
    denoiser: str | None = Field(
        None, description="Run folder of a trained denoiser, which stays frozen: only the variance head learns."
    )
    classes: bool = Field(False, description="Condition on the labels (sub-folder names).")
    label_dropout: float = Field(
        0.1, ge=0.0, le=1.0, description="Share of labels hidden, for classifier-free guidance."
    )
    latents: str | None = Field(
        None, description="Folder that jeppa encode wrote, whose latents are taken instead of encoding the pictures."
    )
    views: int = Field(
        4096,
        ge=1,
        le=MAX_COUNT,
        description="Latents kept in memory: each image is encoded in about views/images random crops.",
    )  # fmt: skip
    data: DataConfig = DataConfig(min_view=0.75)
    optim: OptimConfig = OptimConfig(batch_size=32, learning_rate=1e-3)

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        if self.denoiser is not None and not self.variance:
            raise ValueError("denoiser keeps the net as it is, so variance must be learned: leave one of them out")
        return self


class TextureRun(Settings):
    """A run that learns a texture head for a trained VAE: the content of its `config.yaml`."""

    kind: Literal["texture"] = "texture"
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights, data order and noise.")
    vae: str = Field(description="Run folder, exported folder or shipped name of the VAE, which stays as it is.")
    model: TextureConfig = TextureConfig()
    k: float = Field(1.5, gt=0.0, le=10.0, description="Largest distance of a pixel from the mean, in units of sigma.")
    perceptual: float = Field(1.0, ge=0.0, description="Weight of LPIPS (AlexNet) of the textured picture.")
    adversarial: float = Field(0.05, ge=0.0, description="Weight of the adversarial loss of the discriminator.")
    fidelity: float = Field(0.05, ge=0.0, description="Weight of the squared error over the variance.")
    discriminator_channels: int = Field(64, ge=8, le=MAX_WIDTH, description="Width of the discriminator.")
    replay: int = Field(128, ge=0, le=4096, description="Older textured crops that are kept for the discriminator.")
    data: DataConfig = DataConfig(sizes=1)
    optim: OptimConfig = OptimConfig(batch_size=16)

    @model_validator(mode="after")
    def _something_is_asked(self) -> Self:
        if self.perceptual == self.adversarial == 0.0:
            raise ValueError("perceptual and adversarial are both 0, so nothing would teach texture: set one above 0")
        if self.data.resolution < LPIPS_SIDE:
            raise ValueError(f"texture needs crops of at least {LPIPS_SIDE} pixels, not {self.data.resolution}")
        return self


RunConfig = VAERun | DiffusionRun | TextureRun
S = TypeVar("S", bound=Settings)


def parse(model: type[S], values: Any, origin: str) -> S:
    """Validate `values` (nested dicts) as `model`.

    Raises:
        ConfigError: one line with the key, the value and, for an unknown key, the nearest known one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error, model)}") from None


def load_run(path: Path) -> RunConfig:
    """Read a `config.yaml`, telling a VAE run from a diffusion run by its `kind`."""
    return parse_run(read_yaml(path), str(path))


def parse_run(values: dict[str, Any], origin: str) -> RunConfig:
    """Validate the settings of a run, of whichever kind; see `parse`."""
    kind = values.get("kind")
    if kind == "vae":
        return parse(VAERun, values, origin)
    if kind == "diffusion":
        return parse(DiffusionRun, values, origin)
    if kind == "texture":
        return parse(TextureRun, values, origin)
    raise ConfigError(f"{origin}: kind is {shorten(kind)}, but must be 'vae', 'diffusion' or 'texture'")


def dump_yaml(settings: Settings) -> str:
    """The YAML text that `load_run` reads back to equal settings."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(error: ValidationError, model: type[Settings]) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}{_did_you_mean(first['loc'], model)}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict | Settings) else f" (got {shorten(first['input'])})"
    return f"{where}: {message}{shown}"


def _did_you_mean(location: tuple[int | str, ...], model: type[Settings]) -> str:
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, Settings):
            return ""
        model = field.annotation
    close = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(model.model_fields)}"


Variance = Literal["learned", "none"]
VARIANCE: Variance = "none"
"""The default."""


class DDIMSettings(Settings):
    """Settings of DDIM in both directions, sampling and inversion; the model that samples checks their ranges."""

    steps: int = Field(25, description="DDIM steps, 1 to the 1000 of training.")
    label: str | None = Field(None, description="Class name, for a model with classes.")
    resolution: int | None = Field(
        None, description="Side in pixels, a multiple of 8; by default that of the denoiser's training, for a VAE 256."
    )


class SamplerSettings(DDIMSettings):
    """How pictures are drawn."""

    eta: float = Field(0.0, description="0 (deterministic) to 1 (fresh noise in each step).")
    guidance: float = Field(1.0, description="Weight of classifier-free guidance; 1 is none.")
    variance: Variance = Field(
        VARIANCE,
        description="learned: each step draws noise of the variance that the denoiser predicts; none: plain DDIM.",
    )
    temperature: float = Field(
        1.0, description="Factor of the learned standard deviation: 0 is plain DDIM, 1 the optimal variance."
    )
    last_draw: bool = Field(
        False, description="Draw noise in the last step too, which leaves it visible in the picture."
    )

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if self.variance == "none" and (self.temperature != 1.0 or self.last_draw):
            name = "last_draw" if self.last_draw else "temperature"
            raise ValueError(f"{name} is set, but the variance is none: add --variance learned, or leave it out")
        return self
