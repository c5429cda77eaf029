"""Complexity of blocks: the bits are those of a real JPEG file, and the ranks and ratios are the defined ones."""

import io

import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from jeppa.data import evaluation_images, open_source, to_pixels
from results.claims import complexity


def scan_bits(x: Tensor) -> int:
    """Bits of the coded pixels, `[3,H,W]`, in a JPEG file of quality 90: no header, no stuffed bytes."""
    stream = io.BytesIO()
    Image.fromarray(to_pixels(x)).save(stream, "JPEG", quality=90, subsampling=0)
    content = stream.getvalue()
    start = content.index(b"\xff\xda")
    header = 2 + int.from_bytes(content[start + 2 : start + 4], "big")
    return 8 * len(content[start + header : -2].replace(b"\xff\x00", b"\xff"))


def photographs(size: int) -> list[Tensor]:
    return [x for _, x in evaluation_images(open_source("builtin:photos", "heldout"), size)]


def test_the_bits_of_all_blocks_add_up_to_the_file_that_libjpeg_writes():
    """Within 1.5 %. Red with a wrong zigzag, table, run length or DC rule (each is off by more)."""
    for x in photographs(128):
        assert float(complexity.block_bits(x[None]).sum()) == pytest.approx(scan_bits(x), rel=0.015)


def test_the_bits_of_a_single_block_are_those_of_its_own_file():
    """A file rounds up to whole bytes, and libjpeg's DCT is off by a unit now and then. Red when bits are averaged."""
    x = photographs(128)[1]
    tiles = [x[:, i : i + 8, j : j + 8] for i in range(0, 128, 32) for j in range(0, 128, 32)]
    excess = torch.tensor([scan_bits(tile) - float(complexity.block_bits(tile[None])) for tile in tiles])
    assert -2.0 <= float(excess.median()) <= 9.0
    assert float(excess.abs().max()) < 30.0


@pytest.mark.parametrize("axis", [1, 2])
def test_stripes_cost_what_they_cost_in_the_file_whichever_way_they_run(axis: int):
    """Random columns (or rows) fill one side of the zigzag only. Red when the zigzag is transposed."""
    shape = [1, 1, 1]
    shape[axis] = 64
    stripes = 0.4 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-2.0, 2.0)
    x = stripes.expand(3, 64, 64).contiguous()
    assert float(complexity.block_bits(x[None]).sum()) == pytest.approx(scan_bits(x), rel=0.015)


def test_a_lone_finest_wave_pays_for_its_run_of_zeros():
    """62 zeros before coefficient (7, 7) are three codes of sixteen, 33 bits. Red when they are free."""
    wave = torch.cos(7.0 * torch.pi / 8.0 * (torch.arange(8.0) + 0.5))
    x = (0.4 * wave[:, None] * wave).expand(3, 8, 8).repeat(1, 8, 8)
    assert float(complexity.block_bits(x[None]).sum()) == pytest.approx(scan_bits(x), rel=0.05)


def test_a_flat_block_costs_the_shortest_codes():
    """Three DC codes of size 0 and three ends of block: 2 + 4 + 2 (2 + 2) = 14 bits; mid grey is no change."""
    grey = torch.full((1, 3, 8, 24), 1.0 / 255.0)  # level 128, the zero of JPEG
    assert complexity.block_bits(grey).tolist() == [[[14.0, 14.0, 14.0]]]


def test_incomplete_blocks_are_left_out():
    """Red when the picture is padded."""
    x = torch.rand(2, 3, 23, 33) * 2.0 - 1.0
    assert complexity.block_bits(x).shape == complexity.block_entropy(x).shape == (2, 2, 4)
    assert torch.equal(complexity.block_bits(x), complexity.block_bits(x[..., :16, :32]))


def test_entropy_is_zero_for_one_grey_and_one_bit_for_two_equal_halves():
    """Red when the logarithm is natural, when the bins are finer, or when blocks are mixed up."""
    x = torch.zeros(1, 3, 8, 16)
    x[..., 8:12] = 0.5
    torch.testing.assert_close(complexity.block_entropy(x), torch.tensor([[[0.0, 1.0]]]))


def test_sigma_of_a_block_is_the_root_mean_variance_in_levels():
    """sqrt((3^2 + 1^2) / 2) levels. Red when sigmas are averaged instead of variances."""
    sigma = torch.full((1, 3, 8, 8), 3.0 / 127.5)
    sigma[..., 4:] = 1.0 / 127.5
    found = complexity.block_sigma(2.0 * sigma.log())
    torch.testing.assert_close(found, torch.full((1, 1, 1), 5.0**0.5))


def test_the_rank_correlation_is_spearmans_with_ties():
    """Against scipy. Red when ties are broken by order, or images are pooled."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 6, (3, 4, 5), generator=generator).float()
    second = first + torch.randint(0, 6, (3, 4, 5), generator=generator)
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    assert complexity.rank_correlation(first, second).tolist() == pytest.approx(expected, abs=1e-6)
    assert complexity.rank_correlation(torch.ones(1, 2, 2), torch.rand(1, 2, 2)).isnan().all()
    with pytest.raises(ValueError, match="one shape"):
        complexity.rank_correlation(torch.rand(1, 4, 1), torch.rand(1, 1, 4))


def test_plain_to_complex_compares_the_two_tails_by_complexity():
    """Of 20 blocks the two plainest have sigma 1, the two most complex 4. Red when sorted by sigma, or upside down."""
    bits = torch.arange(20.0).view(1, 4, 5)
    sigma = torch.full((1, 20), 9.0)
    sigma[0, :2], sigma[0, -2:] = 1.0, 4.0
    assert float(complexity.plain_to_complex(sigma.view(1, 4, 5), bits)) == pytest.approx(0.25)
    assert float(complexity.plain_to_complex(sigma.view(1, 4, 5), -bits)) == pytest.approx(4.0)
