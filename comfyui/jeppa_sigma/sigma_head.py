"""The sigma head of jeppa in torch alone, so that the folder works wherever ComfyUI does.

It must compute what `src/jeppa/vae/sigma_head.py` computes, to the last bit; a test compares the two. What the head
does and why is explained there.
"""

import json
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

CELL = 8
LEVEL = 1.0 / 127.5
WIDER = (3, 5)
TYPICAL = -3.0
KNOTS = 8
LOW, HIGH = -12.0, 4.0
OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))


class SigmaHead(nn.Module):
    """Maps features of a decoder and its picture to the log-variance of each pixel.

    Args:
        feature_channels: channels of the features.
        feature_size: pixels a side that one feature covers.
        channels: width.
        blocks: residual blocks.
        shared_logvar: the log-variance that fits all pixels best.
    """

    def __init__(
        self, feature_channels: int, feature_size: int, channels: int, blocks: int, shared_logvar: float
    ) -> None:
        super().__init__()
        self.feature_channels = feature_channels
        self.shared_logvar = shared_logvar
        stride = CELL // feature_size
        self.from_features = nn.Conv2d(feature_channels, channels, stride, stride)
        self.from_contrast = nn.Conv2d(3 * CELL * CELL + 3 * (5 + len(WIDER)), channels, 3, padding=1)
        self.residuals = nn.ModuleList(_Block(channels) for _ in range(blocks))
        self.out = nn.Conv2d(channels, 3 * CELL * CELL, 3, padding=1)
        self.curve = _Curve()

    def forward(self, features: Tensor, mean: Tensor) -> Tensor:
        """Log-variance `[B,3,H,W]`, natural log.

        Args:
            features: what goes into the decoder's last convolution, float32.
            mean: the picture, `[B,3,H,W]` in about [-1,1].
        """
        hidden = self.from_features(features) + self.from_contrast(_log_contrast(mean))
        for residual in self.residuals:
            hidden = residual(hidden)
        detail = F.pixel_shuffle(self.out(F.silu(hidden)), CELL)
        return self.curve(_bound(self.shared_logvar + detail)).clamp(LOW, HIGH)


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.conv2(F.silu(self.conv1(F.silu(hidden))))


class _Curve(nn.Module):
    """The calibration: a rising line of straight pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(LOW, HIGH, KNOTS))
        self.register_buffer("values", torch.linspace(LOW, HIGH, KNOTS))

    def forward(self, logvar: Tensor) -> Tensor:
        beyond = self.knots.new_ones(1)
        slope = torch.cat([beyond, self.values.diff() / self.knots.diff(), beyond])
        intercept = torch.cat([self.values[:1], self.values]) - slope * torch.cat([self.knots[:1], self.knots])
        piece = torch.bucketize(logvar.contiguous(), self.knots)
        return slope[piece] * logvar + intercept[piece]


def load_head(path: str) -> SigmaHead:
    """Read a sigma head that `jeppa export --format ldm` wrote; the file can hold no code.

    Raises:
        ValueError: it is damaged, or no sigma head.
    """
    try:
        with safe_open(path, "pt") as file:
            described: dict[str, Any] = json.loads((file.metadata() or {})["sigma_head"])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
        tails = described.pop("tails", False)
        head = SigmaHead(**described)
        head.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: no sigma head of jeppa ({reason}); give a NAME.sigma.safetensors") from None
    if tails or not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError(f"{path}: a sigma head that this node cannot use; export the model again")
    return head.eval().requires_grad_(False)


def _log_contrast(mean: Tensor) -> Tensor:
    weights = F.normalize(torch.tensor(OPPONENT), dim=1).to(mean)[..., None, None]
    padded = F.pad(F.conv2d(mean, weights), (1, 1, 1, 1), mode="replicate")
    across = 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2])
    down = 0.5 * (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1])
    energy = across.square() + down.square()
    cell = F.avg_pool2d(energy, CELL)
    quarters = F.pixel_unshuffle(F.avg_pool2d(energy, CELL // 2), 2)
    wider = [F.avg_pool2d(cell, side, 1, side // 2, count_include_pad=False) for side in WIDER]
    maps = torch.cat([F.pixel_unshuffle(energy, CELL), cell, quarters, *wider], dim=1)
    return 0.5 * (maps + LEVEL**2).log() - TYPICAL


def _bound(raw: Tensor) -> Tensor:
    above = LOW + F.softplus(raw - LOW)
    return torch.clamp(HIGH - F.softplus(HIGH - above), min=LOW)
