"""Random changes of colour, so that a model trained on few pictures does not learn their colours by heart."""

import math

import numpy as np
import torch
from torch import Tensor

MAX_SATURATION = 1.4
MAX_SHIFT = 0.6


def jitter_colours(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Exchange channels half of the time; change saturation, contrast and brightness.

    Args:
        x: `[3,H,W]` in [-1,1].
        strength: 0 to 1. At 1 saturation is scaled by 0 to 1.4 and contrast by 1/e to e, and brightness is shifted
            by up to 0.6; channels are exchanged in 50 % of the pictures at any strength above 0.
        rng: all the randomness; a fixed number of draws.

    Returns:
        The same shape, clamped to [-1,1].
    """
    order, exchanged = rng.permutation(3), rng.random() < 0.5
    saturation = 1.0 + strength * (rng.uniform(0.0, MAX_SATURATION) - 1.0)
    contrast = math.exp(strength * rng.uniform(-1.0, 1.0))
    shift = strength * rng.uniform(-MAX_SHIFT, MAX_SHIFT)
    if exchanged:
        x = x[torch.from_numpy(order)]
    grey = x.mean(0, keepdim=True)
    x = grey + saturation * (x - grey)
    middle = x.mean()
    return (middle + contrast * (x - middle) + shift).clamp(-1.0, 1.0)
