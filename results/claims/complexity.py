"""How complex each 8x8 block of an image is, and whether a sigma follows it.

Two measures that know nothing of any model: the bits that JPEG spends on the block, and the entropy of its grey
levels. Both are `[B,h,w]`, one number for each whole 8x8 block; incomplete blocks at the right and bottom are left
out. Images are `[B,3,H,W]` in [-1,1]; figures over blocks are `[B]`.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

from jeppa.data.images import LEVELS_PER_UNIT

BLOCK = 8
QUALITY = 90
ENTROPY_STEP = 8.0
"""Width in 8-bit levels of the bins of `block_entropy`: noise of a level or two stays within a bin or two."""

_DEFINE_TABLES = 0xC4
_START_OF_SCAN = 0xDA

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class JpegTables:
    """What a baseline JPEG coder looks up, for brightness and for colour (two entries each).

    Args:
        steps: quantisation step of each coefficient in raster order, `[8,8]`.
        dc_bits: length in bits of the code of each size of a DC difference, `[256]`, 0 if there is none.
        ac_bits: the same for each (run of zeros, size) of an AC coefficient.
    """

    steps: tuple[Integers, Integers]
    dc_bits: tuple[Integers, Integers]
    ac_bits: tuple[Integers, Integers]


def block_bits(x: Tensor) -> Tensor:
    """Bits that a baseline JPEG of quality 90 spends on each 8x8 block, all three colours: float32 `[B,h,w]`.

    The real cost, coefficient by coefficient: quantised DCT of YCbCr without subsampling, run lengths, and the
    standard Huffman codes. A block's DC counts as its difference from the block before it in reading order, as
    in the file. All blocks together cost what libjpeg's file costs without its header, to about 1 %.

    Source: ITU-T T.81 (1992), sections A.3 and F.1.2.
    """
    bits = [sum(_plane_bits(plane, int(colour > 0)) for colour, plane in enumerate(_ycbcr(image))) for image in x]
    return torch.from_numpy(np.stack(bits)).float().to(x.device)


def block_entropy(x: Tensor) -> Tensor:
    """Shannon entropy in bits (0 to 5) of the grey levels of each block, in bins of 8 levels: float32 `[B,h,w]`."""
    grey = ((x.float().mean(1) + 1.0) * LEVELS_PER_UNIT).clamp(0.0, 255.0)
    bins = (grey / ENTROPY_STEP).floor().long()
    blocks = bins.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).flatten(3)
    share = functional.one_hot(blocks, int(256 / ENTROPY_STEP)).float().mean(3)
    return -torch.xlogy(share, share).sum(3) / float(np.log(2.0))


def block_sigma(logvar: Tensor) -> Tensor:
    """Root mean variance of each 8x8 block over pixels and colours, in 8-bit levels: `[B,h,w]`.

    Args:
        logvar: natural log of the variance, `[B,C,H,W]`.
    """
    variance: Tensor = functional.avg_pool2d(logvar.float().exp().mean(1), BLOCK)
    return variance.sqrt() * LEVELS_PER_UNIT


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation over the blocks of each image, -1 to 1, NaN where one is constant: `[B]`.

    Ties get average ranks. Both are `[B,h,w]`.

    Raises:
        ValueError: if the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"blocks are {list(first.shape)} and {list(second.shape)}, but must be of one shape")
    ranks = [torch.from_numpy(rankdata(part.flatten(1).cpu().numpy(), axis=1)) for part in (first, second)]
    one, other = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    correlation: Tensor = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))
    return correlation.float().to(first.device)


def plain_to_complex(values: Tensor, complexity: Tensor, share: float = 0.1) -> Tensor:
    """Root mean square of `values` in the plainest blocks over that in the most complex ones: `[B]`.

    Below 1 where the values are smaller in plain background. NaN where both are 0.

    Args:
        values: non-negative, such as sigma, `[B,h,w]`.
        complexity: of the same blocks, `[B,h,w]`; equal ones are split in reading order.
        share: how many of the blocks are "the plainest" and "the most complex", 0 to 0.5; at least one.
    """
    order = complexity.flatten(1).argsort(dim=1, stable=True)
    count = max(1, round(share * order.shape[1]))
    squared = values.float().flatten(1).square().gather(1, order)
    return (squared[:, :count].mean(1) / squared[:, -count:].mean(1)).sqrt()


@lru_cache(maxsize=1)
def jpeg_tables() -> JpegTables:
    """The tables of libjpeg at quality 90, read from a file that it wrote."""
    stream = io.BytesIO()
    Image.new("RGB", (BLOCK, BLOCK)).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    with Image.open(stream) as image:
        quantisation = image.quantization  # type: ignore[attr-defined]
    steps = [np.array(quantisation[index], dtype=np.int64).reshape(BLOCK, BLOCK) for index in (0, 1)]
    codes = _huffman_lengths(stream.getvalue())
    return JpegTables((steps[0], steps[1]), (codes[0x00], codes[0x01]), (codes[0x10], codes[0x11]))


def _huffman_lengths(file: bytes) -> dict[int, Integers]:
    """Code length of each symbol, by class and number of the table, from a JPEG's DHT segments."""
    tables: dict[int, Integers] = {}
    place = 2
    while file[place + 1] != _START_OF_SCAN:
        length = int.from_bytes(file[place + 2 : place + 4], "big")
        segment = file[place + 4 : place + 2 + length]
        while file[place + 1] == _DEFINE_TABLES and segment:
            counts = list(segment[1:17])
            symbols = list(segment[17 : 17 + sum(counts)])
            tables[segment[0]] = np.zeros(256, dtype=np.int64)
            tables[segment[0]][symbols] = np.repeat(np.arange(1, 17), counts)
            segment = segment[17 + sum(counts) :]
        place += 2 + length
    return tables


def _ycbcr(image: Tensor) -> Array:
    """Y, Cb, Cr in whole 8-bit levels of `[3,H,W]`, cropped to whole blocks: `[3,8h,8w]`."""
    height, width = (side // BLOCK * BLOCK for side in image.shape[1:])
    levels = ((image[:, :height, :width].float().clamp(-1.0, 1.0) + 1.0) * LEVELS_PER_UNIT).round()
    red, green, blue = levels.cpu().double().numpy()
    grey = 0.299 * red + 0.587 * green + 0.114 * blue  # Pillow's own conversion is coarser than libjpeg's
    planes = np.stack([grey, (blue - grey) / 1.772 + 128.0, (red - grey) / 1.402 + 128.0])
    rounded: Array = np.rint(planes).clip(0.0, 255.0)
    return rounded


def _plane_bits(plane: Array, table: int) -> Array:
    """Bits of each block of one colour, `[h,w]`; `table` 0 is that of brightness."""
    tables = jpeg_tables()
    rows, columns = (side // BLOCK for side in plane.shape)
    blocks = plane.reshape(rows, BLOCK, columns, BLOCK).transpose(0, 2, 1, 3).reshape(-1, BLOCK, BLOCK)
    spectrum = dctn(blocks - 128.0, axes=(1, 2), norm="ortho")
    scaled = spectrum / tables.steps[table]
    rounded = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)  # halves away from zero, as libjpeg has it
    levels = rounded.astype(np.int64).reshape(-1, BLOCK * BLOCK)[:, _zigzag()]
    dc = _size(np.diff(levels[:, 0], prepend=0))
    bits = tables.dc_bits[table][dc] + dc + _ac_bits(levels[:, 1:], tables.ac_bits[table])
    return bits.reshape(rows, columns).astype(np.float64)


def _ac_bits(levels: Integers, code_bits: Integers) -> Integers:
    """Bits of the AC coefficients `[N,63]` in zigzag order: runs of zeros, values, end of block: `[N]`."""
    place = np.arange(levels.shape[1])
    filled = levels != 0
    last = np.maximum.accumulate(np.where(filled, place, -1), axis=1)
    before = np.concatenate([np.full((len(levels), 1), -1), last[:, :-1]], axis=1)
    run = place - before - 1
    size = _size(levels)
    each = code_bits[(run % 16) * 16 + size] + size + (run // 16) * code_bits[0xF0]
    unfinished = last[:, -1] < place[-1]
    total: Integers = np.where(filled, each, 0).sum(1) + np.where(unfinished, code_bits[0], 0)
    return total


def _size(values: Integers) -> Integers:
    """Binary digits of |value|: 0, 1, 2, 2, 3 for 0, 1, 2, 3, 4."""
    return np.frexp(np.abs(values).astype(np.float64))[1].astype(np.int64)


@lru_cache(maxsize=1)
def _zigzag() -> Integers:
    """Raster positions in zigzag order: by anti-diagonal, in alternating direction."""
    places = [(i + j, j if (i + j) % 2 == 0 else i, BLOCK * i + j) for i in range(BLOCK) for j in range(BLOCK)]
    return np.array([place for _, _, place in sorted(places)], dtype=np.int64)
