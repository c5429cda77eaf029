"""Training of a texture head on a frozen VAE, by LPIPS and a discriminator; sigma bounds what the head can add.

The discriminator distinguishes pictures from textured reconstructions. It is a U-Net, so it gives a verdict for every
place (Schönfeld et al., arXiv 2002.12655), and it sees the mean and sigma too, which the texture head knows. The
verdicts on the real and the textured picture are compared at each place (the relativistic pairing of
Jolicoeur-Martineau, arXiv 1807.00734), which asks for the right kind of texture in the right place. A gradient penalty
would need second derivatives; instead the verdict must not change under a little noise (Lin et al., arXiv 2501.08316,
section 3.4).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from jeppa.config import TextureRun
from jeppa.data import open_splits, write_png
from jeppa.data.images import contact_sheet
from jeppa.distributions import standard_normal
from jeppa.lpips import load_lpips
from jeppa.train.diffusion import weights_hash
from jeppa.train.ranks import Part, find_ranks
from jeppa.train.shown import ShownPictures
from jeppa.train.step import Batch, Objective, Terms
from jeppa.train.vae import CropData
from jeppa.vae import FACTOR
from jeppa.vae.codec import LatentCodec
from jeppa.vae.texture import TextureHead, add_texture

PENALTY = 1.0
INPUTS = 9
PENALTY_NOISE = 0.05
"""Deviation of the noise that must not change a verdict; pictures are in [-1,1]."""
SLOPE = 0.2
LOGVAR_CENTRE, LOGVAR_SPAN = -5.0, 2.0
"""Typical log-variances; with them the discriminator sees numbers of about unit size."""


class TextureObjective(Objective):
    """Losses of the textured picture, and of the discriminator that judges it, in one backward pass.

    Each learns from its own loss alone: in the loss of the head the weights of the discriminator get no gradient, and
    in the loss of the discriminator the picture gets none. Half of the textured crops that the discriminator sees were
    made in earlier steps.

    Args:
        config: all settings of the run.
        codec: the VAE, which stays frozen.
    """

    config: TextureRun
    data: CropData
    older: Tensor
    stored: Tensor

    def __init__(self, config: TextureRun, codec: LatentCodec) -> None:
        super().__init__()
        self.config = config
        self.codec = codec
        splits = open_splits(config.data)
        self.data = CropData(config, splits.train, weights_hash(codec))
        self.shown = ShownPictures(splits.heldout, config.data.resolution)
        self.model = codec.vae
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model.add_texture_head(config.model)
            self.discriminator = Discriminator(config.discriminator_channels)
        self.discriminator.requires_grad_(config.adversarial > 0.0)
        self._lpips = load_lpips("alex") if config.perceptual else None
        side = config.data.resolution
        self.register_buffer("older", torch.zeros(config.replay, INPUTS + 3, side, side))
        self.register_buffer("stored", torch.zeros((), dtype=torch.int64))
        self._made: list[Tensor] = []
        self._part = Part(range(1), 1)

    @property
    def head(self) -> TextureHead:
        """The texture head."""
        assert self.model.texture_head is not None
        return self.model.texture_head

    def draw(self, batch: Batch, generator: torch.Generator, part: Part | None = None) -> Batch:
        """Crops, the noise of the head and of the penalty, how far LPIPS shifts the crops, and older crops."""
        x = batch["x"]
        count, _, height, width = x.shape
        self._part = part = part or Part(range(count), count)
        self._made = []
        whole = part.whole
        shape = (self.head.latent_noise_channels, height // FACTOR, width // FACTOR)
        drawn = {
            "x": x,
            "noise": part.take(standard_normal(x.new_empty(whole, *shape), generator)),
            "shaken": PENALTY_NOISE * part.take(standard_normal(x.new_empty(whole, *x.shape[1:]), generator)),
            "moved": torch.randint(FACTOR, (2,), generator=generator).expand(count, 2),
        }
        filled = min(int(self.stored), len(self.older))
        if filled >= whole and x.shape[2] == self.older.shape[2]:
            drawn["older"] = self.older[part.take(torch.randint(filled, (whole,), generator=generator))]
            drawn["replaced"] = part.take(torch.arange(whole) >= whole // 2)
        return drawn

    def forward(self, batch: Batch, means: Terms | None = None) -> Terms:
        """Terms `[B]`: loss, lpips, adversarial, fidelity, discriminator (nats), and how often it is right."""
        x = batch["x"]
        with torch.no_grad():
            z = self.model.encode(x).mean
            features, mean = self.model.codec.features_and_mean(z)
            logvar = self.model.predict(features, mean, x.device).logvar
        direction = self.head(features, batch["noise"])
        with torch.autocast(x.device.type, enabled=False):
            made = add_texture(mean, logvar, direction, self.config.k)
        shown = torch.cat([made.detach(), mean, logvar, x], dim=1)
        self._made.append(shown)
        terms = {"fidelity": 0.5 * ((x - made).square() * (-logvar).exp()).flatten(1).mean(1)}
        loss = self.config.fidelity * terms["fidelity"]
        if self._lpips is not None:
            terms["lpips"] = self._perceptual(x, made, batch["moved"][0])
            loss = loss + self.config.perceptual * terms["lpips"]
        if self.config.adversarial:
            held = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
            verdicts = [functional_call(self.discriminator, held, (picture, mean, logvar)) for picture in (made, x)]
            terms["adversarial"] = pairing_loss(*verdicts)
            terms |= self._judge(shown, batch)
            loss = loss + self.config.adversarial * terms["adversarial"] + terms["discriminator"]
        return {"loss": loss, **terms}

    def advance(self, means: Terms) -> None:
        """Keep the textured crops for later steps."""
        if not len(self.older) or self._made[0].shape[2] != self.older.shape[2]:
            return
        made, first = find_ranks().gather(torch.cat(self._made), self._part), int(self.stored)
        places = [(first + i) % len(self.older) for i in range(len(made))]
        self.older[places] = made
        self.stored += len(made)

    def groups(self) -> list[list[nn.Parameter]]:
        """The head, and the discriminator."""
        groups = [list(self.head.parameters())]
        return [*groups, list(self.discriminator.parameters())] if self.config.adversarial else groups

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """The losses as they are."""
        return means

    @torch.no_grad()
    def draw_samples(self, path: Path) -> None:
        """Held-out pictures: original, mean, and with texture."""
        generator, columns = torch.Generator().manual_seed(0), []
        for x in self.shown.pictures(next(self.parameters()).device):
            z = self.model.encode(x).mean
            textured = self.model.decode_texture(z, self.config.k, generator).mean
            columns.append([x[0], self.model.decode(z).mean[0], textured[0]])
        write_png(contact_sheet(list(zip(*columns, strict=True))), path)

    def publish(self, run: Path) -> dict[str, Any]:
        """Export the VAE with its head; the statistics of its latent stay."""
        self.codec.save(run)
        return {"latent": self.codec.stats.model_dump(mode="json")}

    def _perceptual(self, x: Tensor, made: Tensor, moved: Tensor) -> Tensor:
        down, across = moved.tolist()
        pair = (F.pad(picture, (across, 0, down, 0), mode="replicate") for picture in (x, made))
        assert self._lpips is not None
        with torch.autocast(x.device.type, enabled=False):
            return self._lpips.distance(*pair)

    def _judge(self, shown: Tensor, batch: Batch) -> Terms:
        """Loss of the discriminator, half on crops made now and half on older ones, and the share of right verdicts."""
        if "older" in batch:
            shown = torch.where(batch["replaced"].view(-1, 1, 1, 1), batch["older"], shown)
        made, mean, logvar, x = shown.split(3, dim=1)
        real, false = (self.discriminator(picture, mean, logvar) for picture in (x, made))
        shaken = batch["shaken"]
        penalty = torch.zeros_like(real[:, 0, 0, 0], dtype=torch.float32)
        for picture, verdict in ((x, real), (made, false)):
            change = self.discriminator(picture + shaken, mean, logvar).float() - verdict.float()
            penalty = penalty + change.square().flatten(1).mean(1)
        right = (real > false).float().flatten(1).mean(1)
        return {"discriminator": pairing_loss(real, false) + PENALTY * penalty, "right": right}


class Discriminator(nn.Module):
    """Verdict for every 2x2 pixels, above 0 for real.

    Args:
        channels: width at the finest level; twice and three times as many at the two coarser ones.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        fine, middle, coarse = channels, 2 * channels, 3 * channels
        self.conv_in = nn.Conv2d(4 * INPUTS, fine, 3, padding=1)
        self.down1 = nn.Conv2d(fine, middle, 4, 2, padding=1)
        self.down2 = nn.Conv2d(middle, coarse, 4, 2, padding=1)
        self.middle = nn.Conv2d(coarse, coarse, 3, padding=1)
        self.up2 = nn.Conv2d(coarse, 4 * middle, 1)
        self.join2 = nn.Conv2d(2 * middle, middle, 3, padding=1)
        self.up1 = nn.Conv2d(middle, 4 * fine, 1)
        self.join1 = nn.Conv2d(2 * fine, fine, 3, padding=1)
        self.out = nn.Conv2d(fine, 1, 3, padding=1)

    def forward(self, x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        """Verdict `[B,1,H/2,W/2]` on pictures `[B,3,H,W]`, H and W multiples of 8, given mean and log-variance."""
        known = torch.cat([x, mean, (logvar - LOGVAR_CENTRE) / LOGVAR_SPAN], dim=1)
        fine = F.leaky_relu(self.conv_in(F.pixel_unshuffle(known, 2)), SLOPE)
        middle = F.leaky_relu(self.down1(fine), SLOPE)
        coarse = F.leaky_relu(self.down2(middle), SLOPE)
        coarse = F.leaky_relu(self.middle(coarse), SLOPE)
        middle = F.leaky_relu(self.join2(torch.cat([middle, F.pixel_shuffle(self.up2(coarse), 2)], 1)), SLOPE)
        fine = F.leaky_relu(self.join1(torch.cat([fine, F.pixel_shuffle(self.up1(middle), 2)], 1)), SLOPE)
        verdict: Tensor = self.out(fine)
        return verdict


def pairing_loss(better: Tensor, worse: Tensor) -> Tensor:
    """Loss that is small where `better` is above `worse`, `[B]`: softplus(worse - better), the mean over places."""
    return F.softplus(worse.float() - better.float()).flatten(1).mean(1)
