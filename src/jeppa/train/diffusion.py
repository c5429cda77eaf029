"""Training of the latent denoiser and its variance head on standardised latents of a frozen VAE.

A run starts from a trained net that stays frozen, from a trained net that goes on learning, or from random weights.
"""

import hashlib
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jeppa.config import DiffusionRun
from jeppa.data import CropDataset, ImageSource, make_image_cache, open_data, write_png
from jeppa.data.images import contact_sheet
from jeppa.diffusion import (
    DDIM,
    Denoiser,
    DenoiserAbout,
    alpha_bars,
    denoising_loss,
    drop_labels,
    generators_for,
    initial_noise,
    make_denoise,
    make_denoiser,
    make_scheduler,
    null_label,
    sample_ddim,
    sample_timesteps,
    save_denoiser,
)
from jeppa.distributions import standard_normal
from jeppa.errors import CheckpointError, ConfigError
from jeppa.pipeline import Model, about_denoiser, check_latents, describe_denoiser, load_model
from jeppa.train.ranks import ALONE, Part, Ranks
from jeppa.train.step import Batch, Objective, Terms, TrainingData
from jeppa.vae.codec import LatentCodec

CLASSES = "class_embedding.weight"


def like_denoiser(config: DiffusionRun, init: Path | None = None) -> DiffusionRun:
    """`config` with the architecture of the trained denoiser that the run starts from, if there is one.

    A denoiser that stays frozen (`config.denoiser`) keeps its classes and gets a new variance head. A denoiser that
    goes on learning (`init`) takes the classes of the new data.

    Raises:
        ConfigError: there is no denoiser.
    """
    source = config.denoiser or init
    if source is None:
        return config
    about = describe_denoiser(source)
    if config.denoiser is None:
        model = about.config.model_copy(update={"num_classes": None})
        return config.model_copy(update={"model": model, "prediction": about.prediction})
    model = about.config.model_copy(update={"variance_channels": config.model.variance_channels})
    classes = about.config.num_classes is not None
    return config.model_copy(update={"model": model, "prediction": about.prediction, "classes": classes})


def keep(denoiser: Denoiser, trained: Model) -> None:
    """Copy the net of a trained denoiser and freeze it."""
    try:
        denoiser.unet.load_state_dict(_denoiser_of(trained).unet.state_dict())
    except RuntimeError:
        raise _differing_net(trained) from None
    denoiser.unet.requires_grad_(False)


def start_from(denoiser: Denoiser, labels: tuple[str, ...], trained: Model) -> None:
    """Copy net and variance head of a trained denoiser, including the embeddings of classes of the same name.

    A class that the trained denoiser does not know starts with its embedding of "no class".

    Args:
        denoiser: the one to change.
        labels: names of its classes.
        trained: the model to copy from.

    Raises:
        CheckpointError: `trained` is a VAE.
        ConfigError: another architecture.
    """
    source = _denoiser_of(trained)
    try:
        _load_state(denoiser.unet, source.unet, {CLASSES: _classes(denoiser, labels, trained)})
        if denoiser.head is not None and source.head is not None:
            _load_state(denoiser.head, source.head, {})
    except RuntimeError:
        raise _differing_net(trained) from None


def _load_state(net: nn.Module, source: nn.Module, instead: dict[str, Tensor | None]) -> None:
    """Copy the weights of `source`, but for those named in `instead`; None leaves one out."""
    state = {name: value for name, value in source.state_dict().items() if name not in instead}
    net.load_state_dict(state | {name: value for name, value in instead.items() if value is not None})


def _classes(denoiser: Denoiser, labels: tuple[str, ...], trained: Model) -> Tensor | None:
    """The class embedding for `labels`, its last row that of "no class"; None for a net without classes."""
    if denoiser.unet.config.num_class_embeds is None:
        return None
    fresh: Tensor = denoiser.unet.state_dict()[CLASSES]
    known: Tensor | None = _denoiser_of(trained).unet.state_dict().get(CLASSES)
    if known is None:
        return fresh
    rows = [trained.labels.index(label) if label in trained.labels else len(trained.labels) for label in labels]
    return known[torch.tensor([*rows, len(trained.labels)])].clone()


def _denoiser_of(trained: Model) -> Denoiser:
    if trained.denoiser is None:
        raise CheckpointError(f"{trained.path}: a VAE without a denoiser; give the run folder of a denoiser")
    return trained.denoiser


def _differing_net(trained: Model) -> ConfigError:
    return ConfigError(f"{trained.path}: its net differs from the settings: leave the model's settings out")


SHEET_SIDE = 4
SHEET_STEPS = 10
ENCODE_BATCH = 32
ENCODE_PIXELS = ENCODE_BATCH * 128**2
"""Most pixels encoded at a time, but at least one crop."""


class LatentData(TrainingData):
    """Latents of the training images: those of `views` random crops are encoded once and kept in memory.

    Args:
        config: all settings of the run.
        codec: the VAE that encodes.
    """

    def __init__(self, config: DiffusionRun, codec: LatentCodec) -> None:
        self.source = open_data(config.data, "train")
        self._config = config
        self._codec = codec
        self._bank: tuple[Tensor, Tensor, Tensor] | None = None

    def batches(self, start: int, stop: int, ranks: Ranks = ALONE) -> Generator[Batch, None, None]:
        """`mean` and `std` of posteriors `[B,C,h,w]`, and `label` `[B]`; each epoch has an order of its own."""
        mean, std, label = self._latents()
        size, count = self._config.optim.batch_size, len(mean)
        epoch, order = -1, np.arange(0)
        for step in range(start, stop):
            chosen = []
            for position in (step * size + row for row in self.part(step, ranks).rows):
                if position // count != epoch:
                    epoch = position // count
                    order = np.random.default_rng([self._config.seed, epoch]).permutation(count)
                chosen.append(int(order[position % count]))
            yield {"mean": mean[chosen], "std": std[chosen], "label": label[chosen]}

    def describe(self) -> dict[str, Any]:
        """The training images, and a hash of the VAE that encodes them."""
        return {
            "images": len(self.source),
            "fingerprint": self.source.fingerprint,
            "vae": weights_hash(self._codec),
        }

    def images_seen(self, steps: int) -> int:
        """Latents taken by the first `steps` steps."""
        return steps * self._config.optim.batch_size

    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the latents of a step."""
        side = self._config.data.resolution // self._codec.vae.settings.factor
        return (self._config.optim.batch_size, self._codec.vae.settings.latent_channels, side, side)

    def _latents(self) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior means and standard deviations `[N,C,h,w]` and labels `[N]`, encoded at the first call."""
        if self._bank is None:
            self._bank = encode_views(self._codec, self.source, self._config)
        return self._bank


class DiffusionObjective(Objective):
    """Squared error of the prediction at random timesteps, and the likelihood of that error for the variance head.

    The head gives the net no gradient and is clipped apart, so the net is bit for bit the one of a run without it.

    Args:
        config: all settings of the run; `config.model.num_classes` must be the number of labels or None.
        codec: the frozen VAE with its statistics.
        init: run folder, exported folder or shipped name of a denoiser to start from, or None for random weights.
        data: latents that are there already; None encodes those of the run's pictures.

    Raises:
        CheckpointError: that denoiser, or the one that stays frozen, was trained on other latents.
    """

    config: DiffusionRun
    data: TrainingData

    def __init__(
        self, config: DiffusionRun, codec: LatentCodec, init: Path | None = None, data: TrainingData | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.codec = codec
        self.data = data or LatentData(config, codec)
        self.latents = codec.probe()
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = make_denoiser(self._about(), config.data.resolution // codec.vae.settings.factor)
        source = config.denoiser or init
        if source is not None:
            trained = load_model(source)
            check_latents(codec, trained.codec.probe(), config.vae, source)
            if config.denoiser is not None:
                keep(self.model, trained)
            else:
                start_from(self.model, self._about().labels, trained)
        if config.optim.gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()
        self.schedule = make_scheduler(kind=config.prediction)
        self.alpha_bars = alpha_bars(self.schedule)

    def draw(self, batch: Batch, generator: torch.Generator, part: Part | None = None) -> Batch:
        """Latents from their posteriors, timesteps, the labels that are left, and the noise to add."""
        mean, std = batch["mean"], batch["std"]
        part = part or Part(range(len(mean)), len(mean))
        whole = mean.new_empty(part.whole, *mean.shape[1:])
        drawn = {
            "z0": mean + std * part.take(standard_normal(whole, generator)),
            "t": part.take(sample_timesteps(part.whole, len(self.alpha_bars), generator)),
        }
        if self.config.model.num_classes is not None:
            null = null_label(self.model.unet)
            hidden = part.take(drop_labels(torch.zeros(part.whole), 1, self.config.label_dropout, generator))
            drawn["label"] = batch["label"].masked_fill(hidden.bool(), null)
        return {**drawn, "noise": part.take(standard_normal(whole, generator))}

    def forward(self, batch: Batch, means: Terms | None = None) -> Terms:
        """Terms `[B]`: loss, the sum of mse (about 1 for an untrained net) and variance_nll in nats; chi2."""
        denoise = make_denoise(self.model, batch.get("label"))
        terms = denoising_loss(
            denoise, batch["z0"], batch["t"], batch["noise"], self.alpha_bars, self.config.prediction
        )
        return {"loss": terms["mse"] + terms.get("variance_nll", torch.zeros(())), **terms}

    def groups(self) -> list[list[nn.Parameter]]:
        """The net, unless it is kept as it is, and the variance head."""
        head = [] if self.model.head is None else [list(self.model.head.parameters())]
        return head if self.config.denoiser is not None else [list(self.model.unet.parameters()), *head]

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """The losses as they are."""
        return {key: means[key] for key in ("loss", "mse", "variance_nll", "chi2") if key in means}

    @torch.no_grad()
    def draw_samples(self, path: Path) -> None:
        """Sixteen DDIM samples from seeds 0 to 15, classes in turn."""
        generators = generators_for(range(SHEET_SIDE**2))
        noise = initial_noise(self.data.batch_shape()[1:], generators).to(next(self.parameters()).device)
        classes = self.config.model.num_classes
        labels = None if classes is None else torch.arange(len(noise)) % classes
        *_, last = sample_ddim(make_denoise(self.model, labels), noise, self.schedule, DDIM(SHEET_STEPS))
        pictures = list(self.codec.decode(last.zt).mean)
        rows = [pictures[i : i + SHEET_SIDE] for i in range(0, len(pictures), SHEET_SIDE)]
        write_png(contact_sheet(rows), path)

    def publish(self, run: Path) -> dict[str, Any]:
        """Export net, schedule and the VAE beside them, so that the run folder needs no other."""
        about = self._about()
        save_denoiser(self.model, self.schedule, about, run)
        self.codec.save(run)
        return {"labels": list(about.labels)}

    def _about(self) -> DenoiserAbout:
        labels = self.data.source.labels if self.config.classes else ()
        return about_denoiser(self.config, self.codec.vae.settings.latent_channels, labels, self.latents)


def weights_hash(codec: LatentCodec) -> str:
    """SHA-256, in hexadecimal, of a VAE's weights and its latent statistics."""
    total = hashlib.sha256(codec.stats.model_dump_json(exclude_none=True).encode())
    for name, value in sorted(codec.vae.state_dict().items()):
        total.update(name.encode())
        total.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def with_classes(config: DiffusionRun) -> DiffusionRun:
    """`config` with the number of classes in its training images filled in, if it asks for classes.

    Raises:
        ConfigError: classes are asked for, but images without a label are among them.
    """
    if not config.classes:
        return config
    source = open_data(config.data, "train")
    unlabelled = [ref.name for ref in source.refs if ref.label is None]
    if unlabelled:
        raise ConfigError(
            f"{config.data.data}: {len(unlabelled)} images, {unlabelled[0]!r} first, have no label: put them in "
            "sub-folders named after their class, or leave --classes out"
        )
    model = config.model.model_copy(update={"num_classes": len(source.labels)})
    return config.model_copy(update={"model": model})


@torch.no_grad()
def encode_views(codec: LatentCodec, source: ImageSource, config: DiffusionRun) -> tuple[Tensor, Tensor, Tensor]:
    """Encode whole epochs of random crops, at least `config.views` in all."""
    data = config.data
    decoded = make_image_cache(source, data)
    crops = CropDataset(
        source, data.resolution, config.seed, data.min_view, data.flip, data.colour_jitter, decoded=decoded
    )
    count = math.ceil(config.views / len(source)) * len(source)
    size = max(1, min(ENCODE_BATCH, ENCODE_PIXELS // data.resolution**2))
    device = next(codec.vae.parameters()).device
    means, stds, labels = [], [], []
    for start in range(0, count, size):
        samples = [crops[n] for n in range(start, min(count, start + size))]
        posterior = codec.encode(torch.stack([sample["x"] for sample in samples]).to(device))
        means.append(posterior.mean.cpu())
        stds.append(posterior.std.cpu())
        labels += [sample["label"] for sample in samples]
    return torch.cat(means), torch.cat(stds), torch.tensor(labels)
