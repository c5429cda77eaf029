"""Edges, colour, texture and artefacts: each measure sees its own fault and is blind to the others'."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from results.claims import structure

LEVEL = 1.0 / 127.5


def step_image(height: float, size: int = 64) -> Tensor:
    """Black on the left, `height` levels brighter on the right; the edge is between columns 31 and 32."""
    x = torch.full((1, 3, size, size), -0.5)
    x[..., size // 2 :] += height * LEVEL
    return x


def texture(seed: int = 0, size: int = 64) -> Tensor:
    noise = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(seed))
    return (0.1 * noise).expand(1, 3, size, size).clamp(-1.0, 1.0).contiguous()


def blurred(x: Tensor) -> Tensor:
    return functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def test_a_step_of_33_levels_is_a_strong_edge_and_one_of_31_is_not():
    """Red when the Sobel kernel is not divided by 8 or the threshold is in other units."""
    assert structure.edge_band(step_image(33.0)).any()
    assert not structure.edge_band(step_image(31.0)).any()


def test_the_edge_band_reaches_two_pixels_from_the_edge():
    """The gradient is on columns 31 and 32, so the band is 29 to 34. Red when the reach is another."""
    columns = structure.edge_band(step_image(100.0))[0, 0].all(0).nonzero().flatten().tolist()
    assert columns == [29, 30, 31, 32, 33, 34]


def test_edge_psnr_sees_the_edge_and_nothing_else():
    """Off by 10 levels in the band is 10 log10(255^2 / 100) = 28.13 dB. Red when other pixels count."""
    x = step_image(100.0)
    wrong_beside = x + 10.0 * LEVEL * (~structure.edge_band(x))
    assert float(structure.edge_band_psnr(x, wrong_beside)) == pytest.approx(100.0)
    wrong_inside = x + 10.0 * LEVEL * structure.edge_band(x)
    assert float(structure.edge_band_psnr(x, wrong_inside)) == pytest.approx(10 * math.log10(255**2 / 100), abs=1e-3)
    assert structure.edge_band_psnr(step_image(0.0), step_image(0.0)).isnan().all()


def test_block_colour_sees_a_tint_and_not_its_texture():
    """A tint of 6 levels in one channel is 2 on average; a checkerboard averages out. Red when pixels are compared."""
    x = torch.zeros(2, 3, 16, 24)
    tinted = x.clone()
    tinted[0, 1] += 6.0 * LEVEL
    checker = ((torch.arange(16)[:, None] + torch.arange(24)) % 2 * 2.0 - 1.0) * 20.0 * LEVEL
    found = structure.block_colour_error(x, tinted + checker)
    torch.testing.assert_close(found, torch.tensor([2.0, 0.0]), atol=1e-4, rtol=0.0)


def test_halved_contrast_loses_six_decibels_in_every_band():
    """20 log10 2 = 6.02 dB. Red when amplitude is compared instead of power, or a mean picture counts as right."""
    x, tiles = texture(), torch.ones(1, 4, 4, dtype=torch.bool)
    assert float(structure.spectrum_error(x, 0.5 * x, tiles)) == pytest.approx(6.02, abs=0.05)
    assert float(structure.spectrum_error(x, x, tiles)) == 0.0
    assert float(structure.spectrum_error(x, x + 0.3, tiles)) == pytest.approx(0.0, abs=0.01), (
        "brightness is no texture"
    )
    assert float(structure.spectrum_error(x, blurred(x), tiles)) > 3.0


def test_a_draw_with_the_right_texture_in_another_place_has_the_right_spectrum():
    """Red when the measure compares pixels instead of power."""
    tiles = torch.ones(1, 4, 4, dtype=torch.bool)
    assert float(structure.spectrum_error(texture(0), texture(1), tiles)) < 1.0


def test_texture_is_looked_for_where_sigma_is_large_and_only_there():
    """Red when the smallest sigmas are chosen, or all tiles count."""
    sigma = torch.full((2, 3, 64, 64), 0.1)
    sigma[0, :, :16, 16:32] = 0.2
    tiles = structure.texture_tiles(sigma, share=1 / 16)
    assert tiles.sum((1, 2)).tolist() == [1, 1]
    assert tiles[0, 0, 1]
    x = texture()
    spoiled = x.clone()
    spoiled[..., 32:, :] = 0.0
    assert float(structure.spectrum_error(x, spoiled, tiles[:1])) == 0.0


def test_steps_at_the_grid_raise_blockiness_and_steps_beside_it_do_not():
    """Red when the grid is shifted by a pixel or only one direction is looked at."""
    x = texture()
    assert float(structure.blockiness(x)) == pytest.approx(1.0, abs=0.1)
    tiles = 0.2 * (torch.arange(64) // 8 % 2)
    for gridded in (x + tiles, x + tiles[:, None]):
        assert float(structure.blockiness_excess(x, gridded)) > 0.3
    shifted = 0.2 * ((torch.arange(64) + 4) // 8 % 2)
    assert float(structure.blockiness_excess(x, x + shifted)) < 0.0
    assert structure.blockiness(torch.zeros(1, 3, 16, 16)).isnan().all()


def test_ripples_beside_an_edge_are_ringing_and_far_from_it_are_not():
    """Ripples of +-4 levels. Red when the whole picture counts, or the band of the edge itself."""
    x = step_image(100.0)
    ripple = 4.0 * LEVEL * (torch.arange(64) % 2 * 2.0 - 1.0)
    near, edge = structure.edge_band(x, structure.RING_REACH), structure.edge_band(x)
    assert float(structure.ringing(x, x + ripple * (near & ~edge))) == pytest.approx(4.0, rel=0.15)
    assert float(structure.ringing(x, x + ripple * ~structure.edge_band(x, 12))) == pytest.approx(0.0, abs=1e-3)
    assert structure.ringing(step_image(0.0), step_image(0.0)).isnan().all(), "a picture without edges has no value"


def test_a_lone_coloured_pixel_is_a_speck_and_a_grey_one_or_an_edge_is_not():
    """Red when brightness counts, when a coloured edge counts, or when the original's own specks do."""
    x = torch.zeros(1, 3, 40, 25)
    red, grey, edge = x.clone(), x.clone(), x.clone()
    red[0, 0, 7, 9] = 0.5
    grey[0, :, 7, 9] = 0.5
    edge[0, 0, :, 12:] = 0.5
    assert float(structure.colour_specks(x, red)) == pytest.approx(1.0), "one pixel of a thousand"
    for innocent in (x, grey, edge):
        assert float(structure.colour_specks(x, innocent)) == 0.0
    assert float(structure.colour_specks(red, red)) == 0.0


def test_specks_are_those_that_a_real_median_finds():
    """Noise that leaves its 3x3 median by about the limit, against torch.median. Red when other counts decide."""
    recon = 0.12 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    red, green, blue = (recon * 127.5)[0]
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([(blue - grey) / 1.772, (red - grey) / 1.402])
    near = functional.pad(chroma[None], (1, 1, 1, 1), mode="replicate")[0].unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
    expected = ((chroma - near.median(3).values).abs() > structure.SPECK).any(0).float().mean() * 1000.0
    found = structure.colour_specks(torch.zeros_like(recon), recon)
    assert float(found) == pytest.approx(float(expected), abs=1.0)
    assert 100.0 < float(expected) < 900.0


def test_a_batch_gives_each_image_its_own_figure():
    """Red when a figure is pooled over the batch."""
    x = torch.cat([texture(0), step_image(90.0)])
    recon = torch.cat([blurred(texture(0)), step_image(80.0)])
    tiles = torch.ones(2, 4, 4, dtype=torch.bool)
    measures = (
        structure.edge_band_psnr, structure.block_colour_error, structure.blockiness_excess, structure.ringing,
        structure.colour_specks, lambda a, b: structure.spectrum_error(a, b, tiles[: len(a)]),
    )  # fmt: skip
    for measure in measures:
        alone = torch.cat([measure(x[i : i + 1], recon[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(measure(x, recon), alone, equal_nan=True, atol=1e-4, rtol=1e-4)
