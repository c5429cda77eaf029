"""Group norm with the statistics of the whole picture, for a net that sees one tile of it at a time.

Group norm divides by the mean and the variance of a *whole* picture. With those of a tile, a plain sky comes out in
another tone beside a tile of leaves. The statistics are therefore measured once, on crops spread over the picture that
pass through the net together: at each norm all crops are normalised with their common statistics, so those of the next
norm are measured on the right features. `results/tiling.py` compares this with a thumbnail and with each tile's own.

Both are torch function modes: they replace the calls of `group_norm` of any net, on this thread, while it runs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Moments = tuple[Tensor, Tensor]
"""Mean and variance of each group over a picture, float64 `[G]`."""


def measure_statistics(net: Callable[[Tensor], object], crops: Tensor, margin: int) -> list[Moments]:
    """Statistics of every group norm of `net`, in the order of its calls.

    Args:
        net: what is to run on tiles.
        crops: of one picture, `[N,C,S,S]`.
        margin: a border this wide, in the places of `crops`, is left out: the net sees the end of the crop there.
    """
    measuring = _Measuring(crops.shape[-1], margin)
    with torch.no_grad(), measuring:
        net(crops)
    return measuring.found


class FixedStatistics(TorchFunctionMode):
    """Lets every group norm of one pass use the given statistics instead of those of its input."""

    def __init__(self, statistics: list[Moments]) -> None:
        super().__init__()
        self._next = iter(statistics)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace `group_norm`, pass on all else."""
        if func is not F.group_norm:
            return func(*args, **(kwargs or {}))
        return _normalise(next(self._next), *args, **(kwargs or {}))


class _Measuring(TorchFunctionMode):
    def __init__(self, side: int, margin: int) -> None:
        super().__init__()
        self.found: list[Moments] = []
        self._side, self._margin = side, margin

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.group_norm:
            return func(*args, **(kwargs or {}))
        hidden, groups = args[:2]
        self.found.append(_moments(self._inner(hidden), groups))
        return _normalise(self.found[-1], *args, **(kwargs or {}))

    def _inner(self, hidden: Tensor) -> Tensor:
        """Without the border, at whatever resolution; self-attention has its places in one row, so none is cut."""
        border = self._margin * hidden.shape[-1] // self._side
        return hidden[..., border:-border, border:-border] if hidden.dim() == 4 and border else hidden


def _moments(hidden: Tensor, groups: int) -> Moments:
    """Over crops, channels of the group and places."""
    grouped = hidden.float().unflatten(1, (groups, -1))
    over = [dim for dim in range(grouped.dim()) if dim != 1]
    variance, mean = torch.var_mean(grouped, dim=over, correction=0)
    return mean.double(), variance.double()


def _normalise(
    moments: Moments, hidden: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Group norm as one multiplication and addition for each channel; computed in float32, answered in the input's."""
    mean, variance = (one.repeat_interleave(hidden.shape[1] // groups) for one in moments)
    gain = weight.double() * (variance + eps).rsqrt()
    shape = (1, -1, *[1] * (hidden.dim() - 2))
    shift = (bias.double() - mean * gain).float().view(shape)
    return torch.addcmul(shift, hidden, gain.float().view(shape)).to(hidden.dtype)
