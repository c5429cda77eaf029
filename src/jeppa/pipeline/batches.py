"""How many pictures are made at once, and what is said where even these do not fit in memory.

A VAE works in tiles, so its memory stays flat. A denoiser does not: its attention sees the whole picture, and what it
keeps grows with the pixels of all pictures of a batch.
"""

from torch import Tensor

from jeppa.diffusion import Denoise, Prediction
from jeppa.errors import ConfigError
from jeppa.memory import lacks_memory
from jeppa.vae import FACTOR

BATCH = 16
PIXELS = BATCH * 512**2
"""Of a batch: decoded, with their log-variance, pictures of so many pixels take 96 MiB."""


def at_once(side: int) -> int:
    """How many pictures of this many pixels a side are made at once: 16 up to 512, one from 2048 on."""
    return max(1, min(BATCH, PIXELS // side**2))


def told_plainly(denoise: Denoise) -> Denoise:
    """`denoise`, with a lack of memory told in one line.

    Raises:
        ConfigError: in the call, the pictures do not fit in memory.
    """

    def told(zt: Tensor, t: Tensor) -> Prediction:
        try:
            return denoise(zt, t)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        count, _, height, width = zt.shape
        raise ConfigError(
            f"pictures of {FACTOR * width}x{FACTOR * height} pixels, {count} at once, do not fit in memory: a denoiser "
            "sees them whole, not in tiles; take a smaller --resolution, or free some memory"
        )

    return told
