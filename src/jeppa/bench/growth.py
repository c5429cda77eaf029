"""How time and memory grow with the pixels of a picture and with the batch, as exponents of a power law."""

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jeppa.bench.clock import Row, seconds
from jeppa.vae import HeteroscedasticVAE

SIDES = (256, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 4, 8, 16)
BATCH_SIDE = 256


def growth_rows(alternations: int) -> Iterator[Row]:
    """The `small` preset with tiles, random weights: encode, decode and sigma, each size in a process of its own."""
    sizes = [_alone(_picture, side, alternations) for side in SIDES]
    pixels = [side**2 for side in SIDES]
    told = ", ".join(f"{side}: {s:.2f} s, {mib:.0f} MiB" for side, (s, mib) in zip(SIDES, sizes, strict=True))
    yield _exponent("pixels_time_exponent", pixels, [s for s, _ in sizes], told)
    yield _exponent("pixels_memory_exponent", pixels, [max(mib, 1.0) for _, mib in sizes], told)
    batches = [_alone(_batch, size, alternations) for size in BATCHES]
    told = ", ".join(f"{size}: {s:.2f} s, {mib:.0f} MiB" for size, (s, mib) in zip(BATCHES, batches, strict=True))
    yield _exponent("batch_time_exponent", list(BATCHES), [s for s, _ in batches], told)
    yield _exponent("batch_memory_exponent", list(BATCHES), [max(mib, 1.0) for _, mib in batches], told)


def _exponent(name: str, sizes: list[int], values: list[float], told: str) -> Row:
    """Slope of log value over log size; the spread is that of the slopes with one size left out."""
    size, value = np.log(np.asarray(sizes, float)), np.log(np.asarray(values))
    slope = _slope(size, value)
    without = [_slope(np.delete(size, i), np.delete(value, i)) for i in range(len(sizes))]
    return Row(name, slope, min(without), max(without), None, None, f"exponent, not a ratio; {told}")


def _slope(size: NDArray[np.float64], value: NDArray[np.float64]) -> float:
    return float(np.polyfit(size, value, 1)[0])


def _alone(work: Callable[[int, int], tuple[float, float]], size: int, repeats: int) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, size, repeats).result()


def _picture(side: int, repeats: int) -> tuple[float, float]:
    vae = HeteroscedasticVAE("small").eval().requires_grad_(False)
    vae.enable_tiling()
    return _measured(vae, torch.rand(1, 3, side, side) * 2.0 - 1.0, repeats if side < SIDES[-1] else 1)


def _batch(size: int, repeats: int) -> tuple[float, float]:
    vae = HeteroscedasticVAE("small").eval().requires_grad_(False)
    return _measured(vae, torch.rand(size, 3, BATCH_SIDE, BATCH_SIDE) * 2.0 - 1.0, repeats)


@torch.no_grad()
def _measured(vae: HeteroscedasticVAE, x: torch.Tensor, repeats: int) -> tuple[float, float]:
    """Median seconds, and MiB above what the process had with model and picture."""
    vae.reconstruct(x[..., :64, :64])
    before = _mib("VmRSS")
    times = [seconds(lambda: vae.reconstruct(x)) for _ in range(repeats)]
    return statistics.median(times), _mib("VmHWM") - before


def _mib(key: str) -> float:
    """Memory of this process, now (VmRSS) or at most so far (VmHWM); what getrusage tells begins with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024.0 for line in lines if line.startswith(f"{key}:"))
