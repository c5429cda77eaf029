"""Training of the heteroscedastic VAE: the evidence lower bound with a chosen decoder likelihood."""

import math
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from jeppa.config import TextureRun, VAERun
from jeppa.data import (
    CropDataset,
    CropSample,
    ImageSource,
    make_image_cache,
    open_splits,
    write_png,
)
from jeppa.data.images import LEVELS_PER_UNIT, contact_sheet, reconstruction_rows
from jeppa.distributions import standard_normal
from jeppa.errors import CheckpointError, ConfigError
from jeppa.lpips import load_lpips
from jeppa.shipped import find_shipped
from jeppa.train.kl import KLTerm, latent_summary
from jeppa.train.ranks import ALONE, COUNTED, Part, Ranks, mean_of_batch
from jeppa.train.readers import load_batches
from jeppa.train.shown import STATISTICS_SIDE, ShownPictures, StatisticsCrops
from jeppa.train.step import Batch, Objective, Terms, TrainingData
from jeppa.vae import FACTOR, LIKELIHOODS, HeteroscedasticVAE, load_vae, save_folder
from jeppa.vae.codec import FACTOR_KEYS, LatentStats, make_factors, measure, renew
from jeppa.vae.foreign import LIKELIHOOD as UNMEASURED
from jeppa.vae.linear_start import principal_components, start_linear
from jeppa.vae.pyramid import PyramidAutoencoder

ESTABLISHED_UPDATES = 50  # the running error of a trained model weighs as much as this many steps


class CropData(TrainingData):
    """Random crops of the training images; what is at a position depends on the seed and the position alone.

    Statistics of normalisation layers depend on the size of a picture. A VAE trained on crops of one size
    shifts colours on whole pictures, so the steps take turns in crop sizes, with fewer crops of larger ones.

    Args:
        config: `seed`, `data` and the batch size of it.
        source: the training images.
        vae: hash of the VAE that the run builds on, or None.
    """

    def __init__(self, config: VAERun | TextureRun, source: ImageSource, vae: str | None = None) -> None:
        self.source = source
        self._config = config
        self._vae = vae
        self._decoded = make_image_cache(self.source, config.data)

    def batches(self, start: int, stop: int, ranks: Ranks = ALONE) -> Generator[Batch, None, None]:
        """Batches of crops `{"x": [B,3,R,R], "label": [B], "position": [B]}`."""
        sides = {self._plan(step)[0] for step in range(self._config.data.sizes)}
        crops = _SizedCrops({side: self.crops(side) for side in sides})
        keys = (
            [(self._plan(step)[0], self.images_seen(step) + row) for row in self.part(step, ranks).rows]
            for step in range(start, stop)
        )
        yield from load_batches(crops, keys, self._config.data.workers)

    def describe(self) -> dict[str, Any]:
        """The training images, and the VAE that the run builds on, if there is one."""
        images = {"images": len(self.source), "fingerprint": self.source.fingerprint}
        return images if self._vae is None else {**images, "vae": self._vae}

    def images_seen(self, steps: int) -> int:
        """Crops taken by the first `steps` steps."""
        turns, rest = divmod(steps, self._config.data.sizes)
        counts = [self._plan(step)[1] for step in range(self._config.data.sizes)]
        return turns * sum(counts) + sum(counts[:rest])

    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the crops of the first step."""
        side, count = self._plan(0)
        return (count, 3, side, side)

    def crops(self, side: int) -> CropDataset:
        """Random crops of one size with the run's augmentation."""
        data = self._config.data
        return CropDataset(
            self.source, side, self._config.seed, data.min_view, data.flip, data.colour_jitter, data.patterns,
            self._decoded,
        )  # fmt: skip

    def _plan(self, step: int) -> tuple[int, int]:
        """Side of the crops of a step, and how many there are: about the same number of pixels in every step."""
        doublings = step % self._config.data.sizes
        return self._config.data.resolution << doublings, max(1, self._config.optim.batch_size >> 2 * doublings)


class _SizedCrops(Dataset[CropSample]):
    """Crops addressed by (size, position)."""

    def __init__(self, by_size: dict[int, CropDataset]) -> None:
        self._by_size = by_size

    def __getitem__(self, key: tuple[int, int]) -> CropSample:
        size, position = key
        return self._by_size[size][position]


class VAEObjective(Objective):
    """Negative evidence lower bound of crops: decoder NLL plus beta times KL, in nats a dimension.

    With `perceptual`, LPIPS of the mean is added. The mean is then no longer the conditional mean, and sigma is that
    of x around this mean: E[(x - mean)^2]. LPIPS samples its features every 4 pixels, so a decoder can lower it by a
    lattice of that period. In each step the crops are therefore shifted by a random number of pixels before LPIPS sees
    them, one of the transformations of Kettunen et al., arXiv 1906.03973.

    It is coupled, because the variance that all pixels share, and whether a channel has used up its free bits, are
    properties of the whole batch.

    Source: Kingma and Welling, arXiv 1312.6114, equation 3; beta as in Higgins et al., ICLR 2017.

    Args:
        config: all settings of the run.
        init: exported folder, shipped name, or VAE of others to start from; None for random weights.

    Attributes:
        started: the latent statistics of that VAE; None for random weights.
        published: those of the last export; None before it.

    Raises:
        ConfigError: settings that contradict each other or the VAE; crops that its factor does not divide.
        CheckpointError: `init` is no VAE, or one of another architecture.
    """

    config: VAERun
    data: CropData
    started: LatentStats | None
    published: LatentStats | None = None
    coupled = True

    def __init__(self, config: VAERun, init: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self._check_crops()
        splits = open_splits(config.data)
        self.data = CropData(config, splits.train)
        self.model, self.started = initial_model(config, init)
        self.shown = ShownPictures(splits.heldout, config.data.resolution)
        self._crops: Iterable[Tensor] = ()
        if config.frozen is None:  # else the latents keep their statistics, and none are measured
            self._crops = StatisticsCrops(self.data.crops(min(config.data.resolution, STATISTICS_SIDE)))
        self._freeze()
        if config.optim.gradient_checkpointing:
            self.model.vae.enable_gradient_checkpointing()
        self.kl = KLTerm(config, self.model.deterministic)
        self._lpips = load_lpips("alex") if config.perceptual else None
        if init is None:
            self._start_linear()

    def draw(self, batch: Batch, generator: torch.Generator, part: Part | None = None) -> Batch:
        """Add the noise of the latent's posterior to the crops and, for LPIPS, how far they are shifted."""
        count, _, height, width = batch["x"].shape
        part = part or Part(range(count), count)
        model = self.config.model
        places = height // model.factor, width // model.factor
        like = batch["x"].new_empty(part.whole, model.latent_channels, *places)
        drawn = {**batch, "noise": part.take(standard_normal(like, generator))}
        if self._lpips is not None:
            drawn["moved"] = torch.randint(FACTOR, (2,), generator=generator).expand(count, 2)
        return drawn

    def forward(self, batch: Batch, means: Terms | None = None) -> Terms:
        """Terms `[B]`: loss (nats), distortion and rate (bits) and squared_error a dimension; those of the latent."""
        x = batch["x"]
        posterior = self.model.encode(x)
        decoded = self.model.decode(posterior.mean + posterior.std * batch["noise"])
        with torch.autocast(x.device.type, enabled=False):
            squared_error = (x - decoded.mean.detach()).square().flatten(1).mean(1)
            shared_logvar, counted = self.model.shared_logvar, batch.get(COUNTED)
            if self.training:
                error = mean_of_batch(squared_error, counted) if means is None else means["squared_error"]
                shared_logvar = self.model.shared_logvar_after(error)
            reconstruction = self.model.arm.loss(x, decoded, shared_logvar)
            dims = x[0].numel()
            latent = self.kl(posterior, dims, means, counted)
            distortion = -decoded.log_prob(x).detach() / dims / math.log(2.0)
            loss = (reconstruction + latent.pop("weighted")) / dims
            if self._lpips is not None:
                down, across = batch["moved"][0].tolist()
                pair = (F.pad(picture, (across, 0, down, 0), mode="replicate") for picture in (x, decoded.mean))
                latent["lpips"] = self._lpips.distance(*pair)
                loss = loss + self.config.perceptual * latent["lpips"]
            return {
                "loss": loss,
                "distortion": distortion + math.log2(LEVELS_PER_UNIT),
                "squared_error": squared_error,
                **latent,
            }

    def advance(self, means: Terms) -> None:
        """Update the running error of the model, and what the KL term remembers."""
        self.model.track_error(means["squared_error"])
        self.kl.advance(means["rate"])

    def groups(self) -> list[list[nn.Parameter]]:
        """The autoencoder, unless frozen, and the sigma head apart from it: clipping one never changes the other."""
        nets = (self.model.vae, self.model.sigma_head)
        learn = [[p for p in net.parameters() if p.requires_grad] for net in nets if net is not None]
        return [group for group in learn if group]

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """PSNR (dB) and RMSE (8-bit levels) of sampled reconstructions; the bound in bits a dimension; the latent.

        An encoder without a variance has no rate, so there is no bound.
        """
        rate = {"rate_bpd": means["rate"], "elbo_bpd": means["distortion"] + means["rate"], "beta": means["beta"]}
        return {
            "loss": means["loss"],
            "psnr": 10.0 * math.log10(4.0 / max(means["squared_error"], 1e-12)),
            "rmse_levels": math.sqrt(means["squared_error"]) * LEVELS_PER_UNIT,
            "distortion_bpd": means["distortion"],
            **({} if self.model.deterministic else rate),
            **({"lpips": means["lpips"]} if "lpips" in means else {}),
            **latent_summary(means),
        }

    @torch.no_grad()
    def draw_samples(self, path: Path) -> None:
        """Held-out pictures, their reconstructions and sigma maps."""
        columns = []
        for x in self.shown.pictures(next(self.parameters()).device):
            decoded = self.model.decode(self.model.encode(x).mean)
            columns.append(reconstruction_rows(x, decoded.mean, decoded.logvar))
        write_png(contact_sheet([[row[0] for row in rows] for rows in zip(*columns, strict=True)]), path)

    def publish(self, run: Path) -> dict[str, Any]:
        """Export for diffusers; the latent's shift and scale are measured on training crops, unless they must stay."""
        stats = self.published = self._statistics()
        save_folder(self.model, stats.shift, stats.scale, run, stats.kept)
        return {"latent": stats.model_dump(mode="json")}

    def describe_latents(self) -> str | None:
        """A line about latents before and after, the old factors beside the new; None without a VAE before."""
        if self.started is None or self.published is None:
            return None
        old, new = (_factors_of(stats) for stats in (self.started, self.published))
        if old == new:
            return "latents: as they were, so denoisers of them still fit"
        changes = ", ".join(f"{key} {old[key]} -> {new[key]}" for key in old if old[key] != new[key])
        return f"latents: {changes}; denoisers of the old latents fit no more (--frozen encoder keeps them)"

    def _statistics(self) -> LatentStats:
        if self.config.frozen is not None and self.started is not None:
            return self.started
        measured = measure(self.model, self._crops)
        return measured if self.started is None else renew(self.started, measured)

    def _check_crops(self) -> None:
        side, multiple = self.config.data.resolution, self.config.model.multiple
        if side % multiple:
            raise ConfigError(
                f"resolution is {side}, but must be a multiple of {multiple} for a VAE whose latents are "
                f"{self.config.model.factor} times smaller than a picture"
            )

    def _start_linear(self) -> None:
        net = self.model.vae
        if isinstance(net, AutoencoderKL) and self.config.model.pixel_unshuffle != FACTOR:
            return
        images = torch.cat(list(self._crops))
        if isinstance(net, PyramidAutoencoder):
            net.start_linear(images)
            return
        start_linear(net, principal_components(images, FACTOR, self.config.model.latent_channels))

    def _freeze(self) -> None:
        vae = self.model.vae
        frozen = {None: (), "encoder": self.model.codec.encoder_parts(), "mean": (vae,)}[self.config.frozen]
        for net in frozen:
            net.requires_grad_(False)


def initial_model(config: VAERun, init: Path | None) -> tuple[HeteroscedasticVAE, LatentStats | None]:
    """Make the model with weights drawn from the run's seed, or with those of `init` and its latent statistics.

    A sigma head of another family than that of `init` keeps its random weights.

    Raises:
        ConfigError: the mean is to stay frozen, but there is no sigma head that could learn; or the VAE is to stay
            frozen, but there is none to start from.
        CheckpointError: `init` is of another architecture.
    """
    if config.frozen == "mean" and not LIKELIHOODS[config.likelihood].has_head:
        raise ConfigError(
            f"frozen: mean leaves nothing but the sigma head to learn, but {config.likelihood} has no sigma head: "
            "leave one of them out"
        )
    if config.frozen and init is None:
        raise ConfigError(f"frozen keeps the {config.frozen} of a trained VAE, but none is given: name it with --init")
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = HeteroscedasticVAE(config.model, config.likelihood)
    if model.deterministic and config.rate is not None:
        raise ConfigError(f"rate is {config.rate}, but an AutoencoderTiny has no rate: leave it out")
    return model, None if init is None else _start_from(model, init)


def _start_from(model: HeteroscedasticVAE, init: Path) -> LatentStats:
    shipped = find_shipped(init)
    source, stats = load_vae(init if shipped is None else shipped.vae)
    try:
        model.vae.load_state_dict(source.vae.state_dict())
        if model.sigma_head is not None and source.sigma_head is not None and source.arm.family == model.arm.family:
            model.sigma_head.load_state_dict(source.sigma_head.state_dict())
    except RuntimeError:
        raise CheckpointError(f"{init}: a VAE of another architecture; leave --preset out, or choose its own") from None
    if stats.kept is None or source.likelihood != UNMEASURED:
        model.mean_square.copy_(source.mean_square)
        model.updates.fill_(ESTABLISHED_UPDATES)
    return stats


def _factors_of(stats: LatentStats) -> dict[str, str]:
    """The single factors that pipelines read, rounded to be read by people."""
    entries = stats.kept or make_factors(stats.shift, stats.scale)
    return {key: "none" if entries.get(key) is None else f"{entries[key]:.5g}" for key in FACTOR_KEYS[:2]}
