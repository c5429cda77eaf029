"""Change a picture inside a mask alone: everything outside stays bit for bit.

A latent model sees the whole picture, so what it gives back differs everywhere. Here its answer is used inside the mask
only, and towards the border of the mask it is blended into the original. Two estimates of a pixel are at hand there:
the model's, of variance sigma^2, and the original carried on from outside, whose variance grows with the distance d
from the border as that of a random walk, q d. Their combination by inverse variances is

    x = original + w (change - original),    w = q d / (q d + sigma^2),

so a pixel outside (d = 0) keeps its value exactly; where the model is sure, the change sets in at once, and where it is
not, it sets in slowly. q = infinity (softness 0) is a hard edge.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import distance_transform_edt

from jeppa.data.decode import Pixels
from jeppa.data.images import Levels
from jeppa.errors import ConfigError
from jeppa.pipeline.looking import draw_again, look, with_texture
from jeppa.pipeline.model import Model

Mask = npt.NDArray[np.bool_]
WALK = 16.0
"""q of softness 1, in squared 8-bit levels for each pixel of distance."""
SOFTEST = 10.0


@dataclass(frozen=True)
class Edit:
    """A picture that was changed inside a mask.

    Args:
        pixels: uint8 `[H,W,3]`.
        inside: pixels inside the mask.
        changed: those of them that differ from the original.
        changed_outside: pixels outside the mask that differ; 0, counted and not assumed.
        mean_change: mean absolute change inside, in 8-bit levels.
        largest_change: of any number, in 8-bit levels.
    """

    pixels: Pixels
    inside: int
    changed: int
    changed_outside: int
    mean_change: float
    largest_change: int


def draw_inside(model: Model, pixels: Pixels, mask: Mask, temperature: float, seed: int, softness: float = 1.0) -> Edit:
    """Inside the mask, a drawn reconstruction (temperature 0: the mean); errors as `paste_back`, `draw_again`."""
    return _inside(model, pixels, mask, lambda: draw_again(model, pixels, temperature, seed), softness)


def texture_inside(model: Model, pixels: Pixels, mask: Mask, k: float, seed: int, softness: float = 1.0) -> Edit:
    """Inside the mask, the reconstruction with texture; errors as for `paste_back` and `with_texture`."""
    return _inside(model, pixels, mask, lambda: with_texture(model, pixels, k, seed), softness)


def change_inside(model: Model, pixels: Pixels, mask: Mask, change: Pixels, softness: float = 1.0) -> Edit:
    """Inside the mask, another picture of the same size, such as one that a tool has edited; errors as `paste_back`."""
    return _inside(model, pixels, mask, lambda: change, softness)


def paste_back(pixels: Pixels, change: Pixels, mask: Mask, sigma: Levels, softness: float = 1.0) -> Edit:
    """Take `change` inside the mask, blended by sigma towards its border, and `pixels` everywhere else.

    Args:
        pixels: the original, uint8 `[H,W,3]`.
        change: the same size.
        mask: `[H,W]`, true where the picture may change.
        sigma: of the model, `[H,W]` in 8-bit levels.
        softness: width of the blend: 0 is a hard edge, 1 the default, at most 10.

    Raises:
        ConfigError: another size, an empty mask, or a softness out of range.
    """
    if change.shape != pixels.shape or mask.shape != pixels.shape[:2]:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (pixels.shape, change.shape, mask.shape)]
        raise ConfigError(f"picture, change and mask are {', '.join(sizes)} pixels, but must be of one size")
    if not mask.any():
        raise ConfigError("nothing is painted: paint where the picture may change")
    if not 0.0 <= softness <= SOFTEST:
        raise ConfigError(f"softness is {softness}, but must lie in 0 to {SOFTEST:g}")
    weight = _weights(mask, sigma, softness)[..., None]
    before, after = pixels.astype(np.float32), change.astype(np.float32)
    blended = np.rint(before + weight * (after - before)).astype(np.uint8)
    made = np.where(mask[..., None], blended, pixels)
    difference = np.abs(made.astype(np.int16) - pixels)
    moved = difference.any(2)
    return Edit(
        made,
        inside=int(mask.sum()),
        changed=int((moved & mask).sum()),
        changed_outside=int((moved & ~mask).sum()),
        mean_change=float(difference[mask].mean()),
        largest_change=int(difference.max()),
    )


def _inside(model: Model, pixels: Pixels, mask: Mask, change: Callable[[], Pixels], softness: float) -> Edit:
    if not mask.any():
        raise ConfigError("nothing is painted: paint where the picture may change")
    return paste_back(pixels, change(), mask, look(model, pixels).levels, softness)


def _weights(mask: Mask, sigma: Levels, softness: float) -> npt.NDArray[np.float32]:
    """Of the change, float32 `[H,W]`, 0 outside."""
    if softness == 0.0:
        return mask.astype(np.float32)
    # Beyond the edge of the picture there is nothing to blend into, so its edge is no border of the mask.
    walked = WALK / softness * (distance_transform_edt(mask) if not mask.all() else np.full(mask.shape, np.inf))
    with np.errstate(invalid="ignore"):
        weight = walked / (walked + np.square(sigma))
    return np.where(np.isinf(walked), 1.0, np.where(mask, weight, 0.0)).astype(np.float32)


def read_painted(pixels: Pixels, size: tuple[int, int]) -> Mask:
    """A black and white picture as a mask of `size` (height, width), scaled to it; white is true."""
    image = Image.fromarray(pixels).convert("L").resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(image) > 127
