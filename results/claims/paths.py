"""Walks between two latents, and the knob that trades quality for diversity, both on small squares.

Fixed before any run: `PAIRS` pairs of held-out images at `SIDE` pixels and `FRAMES` frames on the straight line
between their latent means; `KNOB_IMAGES` images, two draws each, at the temperatures `TAUS`. Distances are LPIPS
(AlexNet). Arms whose encoder and mean are equal bit for bit walk the same path, which is measured once.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jeppa.errors import JeppaError
from jeppa.lab.metrics import psnr
from jeppa.lpips import Lpips, load_lpips
from jeppa.vae import HeteroscedasticVAE
from results.claims.folder import CompareFolder, NotMeasuredError, make_generator
from results.claims.verdict import Array

SIDE = 96
FRAMES = 9
PAIRS = 24
KNOB_IMAGES = 12
TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)
PATH_KEYS = ("path_length", "path_unevenness")

Row = dict[str, float]


@dataclass(frozen=True)
class Knob:
    """What turning up the temperature does, means over images at each of `TAUS`.

    Args:
        diversity: LPIPS between two draws.
        fidelity: PSNR of a draw in dB.
    """

    diversity: Array
    fidelity: Array


class PathFigures:
    """Figures of latent walks of any run."""

    def __init__(self, folder: CompareFolder) -> None:
        self._folder = folder
        self._rows: dict[str, dict[str, Row]] = {}

    def measure_run(self, arm: str, seed: int) -> dict[str, Row]:
        """`PATH_KEYS` for each pair of images."""
        vae = self._folder.load_vae(arm, seed)
        digest = hash_mean(vae)
        if digest not in self._rows:
            distance = load_distance()
            images = list(self._folder.load_images(2 * PAIRS, SIDE, SIDE).items())
            half = len(images) // 2
            pairs = zip(images[:half], images[half : 2 * half], strict=True)
            self._rows[digest] = {f"{a} to {b}": walk(vae, x, y, distance) for (a, x), (b, y) in pairs}
        return self._rows[digest]


@torch.no_grad()
def walk(vae: HeteroscedasticVAE, a: Tensor, b: Tensor, distance: Lpips) -> Row:
    """Length and unevenness of the path between two images, `[1,3,H,W]` each.

    `path_length`: mean distance of neighbouring frames over that of the ends; 1 / (FRAMES - 1) is the least
    for a true metric. `path_unevenness`: the largest step over the mean one, 1 is even.
    """
    first, last = vae.encode(torch.cat([a, b])).mean
    shares = torch.linspace(0.0, 1.0, FRAMES).view(-1, 1, 1, 1)
    frames = vae.decode(torch.lerp(first, last, shares)).mean
    steps = distance(frames[:-1], frames[1:])
    ends = distance(frames[:1], frames[-1:])
    return {"path_length": float(steps.mean() / ends), "path_unevenness": float(steps.max() / steps.mean())}


def turn_knob(folder: CompareFolder, arm: str, seed: int, place: str) -> Knob:
    """Draw at each temperature, from the decoder's residual (place `pixels`) or the encoder's posterior (`latent`)."""
    vae, distance = folder.load_vae(arm, seed), load_distance()
    rows = []
    for index, x in enumerate(load_few(folder).values()):
        noise = [make_generator(seed, index, draw) for draw in (0, 1)]
        first, second = (draw_pictures(vae, x, place, source) for source in noise)
        original = x.expand_as(first)
        fidelity = (psnr(original, first) + psnr(original, second)) / 2.0
        rows.append(torch.stack([distance(first.clamp(-1.0, 1.0), second), fidelity]).double().numpy())
    diversity, quality = np.mean(rows, axis=0)
    return Knob(diversity, quality)


def count_knob_images(folder: CompareFolder) -> int:
    """On how many images the knob is turned: `KNOB_IMAGES`, or all if there are fewer."""
    return len(load_few(folder))


def find_least_step(values: Array) -> float:
    """The smallest rise from one temperature to the next; above 0 is strictly rising."""
    return float(np.diff(values).min())


def hash_mean(vae: HeteroscedasticVAE) -> str:
    """SHA-256 of the weights that encoder and mean depend on."""
    digest = hashlib.sha256()
    for name, value in sorted(vae.vae.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def load_few(folder: CompareFolder) -> dict[str, Tensor]:
    """The images on which the knob is turned."""
    return folder.load_images(KNOB_IMAGES, SIDE, SIDE)


@torch.no_grad()
def draw_pictures(vae: HeteroscedasticVAE, x: Tensor, place: str, noise: torch.Generator) -> Tensor:
    """One draw at all temperatures, `[len(TAUS),3,H,W]`: the same noise, scaled."""
    taus = torch.tensor(TAUS).view(-1, 1, 1, 1)
    posterior = vae.encode(x)
    if place == "latent":
        residual = posterior.sample(noise) - posterior.mean
        return vae.decode(posterior.mean + taus * residual).mean
    decoded = vae.decode(posterior.mean)
    return decoded.mean + taus * (decoded.sample(noise) - decoded.mean)


def load_distance() -> Lpips:
    """LPIPS by AlexNet.

    Raises:
        NotMeasuredError: its weights are not installed.
    """
    try:
        return load_lpips("alex")
    except JeppaError as error:
        raise NotMeasuredError(f"LPIPS: {error}") from None
