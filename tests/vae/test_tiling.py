import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jeppa.config import PRESETS, Likelihood
from jeppa.data import open_source, to_x
from jeppa.data.images import fit_square
from jeppa.distributions import BandGaussian, DiagonalGaussian
from jeppa.errors import ConfigError, DataError
from jeppa.pipeline import load_model
from jeppa.vae import HeteroscedasticVAE, Rows
from jeppa.vae.blending import OVERLAP, Plane, Span, TilePool, spans, window
from jeppa.vae.tiling import FixedStatistics, Tiling, margin_for, measure_statistics, tile_for

REACH = 17
"""Cells that the tiny decoder sees on every side: 10, behind it 6 of the sigma head, and a pixel of its contrast."""


def without_norms(likelihood: Likelihood = "faithful") -> HeteroscedasticVAE:
    """A tiny VAE whose answers depend on nothing farther than its convolutions reach."""
    torch.manual_seed(0)
    model = HeteroscedasticVAE("tiny", likelihood).eval().requires_grad_(False)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return untrained_head(model)


def untrained_head(model: HeteroscedasticVAE) -> HeteroscedasticVAE:
    """Let sigma differ between pixels, as that of a trained head does."""
    if model.sigma_head is not None:
        nn.init.normal_(model.sigma_head.out.weight, std=0.05)
    model.mean_square.fill_(0.02)
    return model


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0


@pytest.mark.parametrize(
    ("likelihood", "height", "width"),
    [("faithful", 64, 960), ("faithful", 960, 72), ("shared", 64, 960), ("student-t", 64, 960),
     ("band-faithful", 960, 72), ("band-t-faithful", 64, 960)],
)  # fmt: skip
@torch.no_grad()
def test_without_global_operations_tiles_give_the_untiled_answer_to_rounding(
    likelihood: Likelihood, height: int, width: int
):
    """Red when the window does not fall to 0 one margin before the end, or when bands are pooled by pixels."""
    model = without_norms(likelihood)
    x = noise(2, 3, height, width)
    posterior = model.encode(x)
    decoded = model.decode(posterior.mean)
    model.enable_tiling(tile=8 * 5 * REACH, margin=8 * REACH)
    tiled = model.encode(x)
    torch.testing.assert_close(tiled.mean, posterior.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tiled.logvar, posterior.logvar, atol=1e-5, rtol=1e-4)
    again = model.decode(posterior.mean)
    assert type(again) is type(decoded)
    torch.testing.assert_close(again.mean, decoded.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again.element_logvar, decoded.element_logvar, atol=1e-4, rtol=1e-4)
    assert again.df == decoded.df


@pytest.mark.parametrize(
    ("length", "tile", "margin"), [(100, 30, 6), (31, 30, 6), (57, 40, 3), (512, 64, 6), (12, 10, 2), (13, 5, 1)]
)
def test_windows_of_all_tiles_sum_to_one_and_no_tile_is_too_long(length: int, tile: int, margin: int):
    """Red when the two sides of an overlap fade over different places."""
    total = torch.zeros(8 * length)
    covering = spans(length, tile, margin)
    for span in covering:
        assert 0 <= span.start < span.stop <= length
        assert span.stop - span.start <= tile
        total[8 * span.start : 8 * span.stop] += window(span, margin, 8)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_tile_has_no_weight_within_a_margin_of_its_neighbour_and_all_at_the_end_of_the_picture():
    """Red when the ends of the picture fade too: nothing else is there to answer."""
    weight = window(Span(0, 24, before=False, after=True), 6, 8)
    assert torch.equal(weight[: 12 * 8], torch.ones(12 * 8))
    assert torch.equal(weight[-6 * 8 :], torch.zeros(6 * 8))


@torch.no_grad()
def test_a_picture_within_one_tile_is_bitwise_the_same():
    """Red when it passes through the pool."""
    torch.manual_seed(0)
    model = untrained_head(HeteroscedasticVAE("tiny").eval())
    x = noise(2, 3, 240, 120)
    posterior = model.encode(x)
    decoded = model.decode(posterior.mean)
    model.enable_tiling(240)
    assert torch.equal(model.encode(x).mean, posterior.mean)
    again = model.decode(posterior.mean)
    assert torch.equal(again.mean, decoded.mean)
    assert torch.equal(again.logvar, decoded.logvar)


@pytest.mark.parametrize("size", [(250, 450), (241, 7), (1, 300)])
@torch.no_grad()
def test_any_size_comes_back_at_its_own_size_in_one_piece_and_in_rows(size: tuple[int, int]):
    """Red when rows are not cut back to the picture, or one is left out."""
    torch.manual_seed(0)
    model = untrained_head(HeteroscedasticVAE("tiny").eval())
    model.enable_tiling(240)
    x = noise(1, 3, *size)
    whole = model.reconstruct(x)
    rows = list(model.reconstruct_rows(*size, lambda top, bottom, left, right: x[:, :, top:bottom, left:right]))
    assert [row.top for row in rows] == np.cumsum([0, *(row.mean.shape[2] for row in rows[:-1])]).tolist()
    assert torch.equal(torch.cat([row.mean for row in rows], dim=2), whole.mean)
    assert torch.equal(torch.cat([row.logvar for row in rows], dim=2), whole.logvar)
    assert whole.mean.shape == x.shape
    assert whole.mean.isfinite().all()


def test_a_pooled_variance_lies_between_those_of_the_tiles_and_the_surer_tile_weighs_more():
    """Red when precisions are summed as if two tiles were two measurements, or weights are the windows alone."""
    pool = TilePool(Plane(1, 1, 1, 8))
    span = Span(0, 1, before=False, after=False)
    sure, unsure = (torch.full((1, 3, 8, 8), math.log(v)) for v in (0.1, 0.4))
    pool.add(DiagonalGaussian(torch.zeros(1, 3, 8, 8), sure), torch.full((8, 8), 0.5), span, span)
    pool.add(DiagonalGaussian(torch.ones(1, 3, 8, 8), unsure), torch.full((8, 8), 0.5), span, span)
    found = pool.finish(1)
    torch.testing.assert_close(found.mean, torch.full((1, 3, 8, 8), 0.2))
    torch.testing.assert_close(found.logvar.exp(), torch.full((1, 3, 8, 8), 0.16))


def test_bands_are_pooled_cell_by_cell():
    """Red when the coefficients of one cell are weighed by the windows of its pixels."""
    pool, span = TilePool(Plane(1, 1, 1, 8)), Span(0, 1, before=False, after=False)
    weight = torch.linspace(0.0, 1.0, 8).expand(8, 8)
    for share, logvar in ((weight, 0.0), (1.0 - weight, 1.0)):
        bands = BandGaussian(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), logvar), "dct")
        pool.add(bands, share, span, span)
    found = pool.finish(1).element_logvar
    torch.testing.assert_close(found, found[:, :1, :1, :1].expand_as(found))


@torch.no_grad()
def test_statistics_of_one_crop_that_is_the_picture_are_those_of_group_norm():
    """Red when the variance is corrected, or groups are mixed up."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.SiLU(), nn.GroupNorm(2, 8))
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[3].bias)
    x = 5.0 + 2.0 * noise(1, 3, 24, 24)
    found = measure_statistics(net, x, 0)
    assert len(found) == 2
    with FixedStatistics(found):
        fixed = net(x)
    torch.testing.assert_close(fixed, net(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_tile_of_sky_keeps_its_tone_beside_one_of_leaves(vae_folder: Path):
    """Red with the statistics of each tile alone: over 5 levels off, against 2."""
    model = load_model(vae_folder).codec.vae
    x = noise(1, 3, 96, 480)
    x[..., :240] = 0.5
    model.disable_tiling()
    whole = model.reconstruct(x).mean[..., :96]
    model.enable_tiling(240)
    off = (model.reconstruct(x).mean[..., :96] - whole).abs().mean().item() * 127.5
    assert off < 2.0


@torch.no_grad()
def test_seams_have_the_gradients_of_the_inside(vae_folder: Path):
    """Mean |gradient| across every column where tiles overlap, over that elsewhere, of tiled over untiled: within 5 %.

    Columns are compared with those at the same place of their cells, since the net leaves a pattern of that period. Red
    with the statistics of each tile alone (0.93), with tiles that fade at one end only (0.83) or at none (0.75).
    """
    model = load_model(vae_folder).codec.vae
    photo = next(ref for ref in open_source("builtin:photos", "heldout").refs if "chelsea" in ref.name)
    x = to_x(fit_square(photo.read_pixels(), 384))[None]
    model.disable_tiling()
    whole = model.reconstruct(x).mean
    model.enable_tiling(240)
    tiled = model.reconstruct(x).mean
    assert model.tiling is not None
    overlap = torch.zeros(383, dtype=torch.bool)
    for span in spans(48, model.tiling.tile, model.tiling.margin)[1:]:
        overlap[8 * span.start - 1 : 8 * (span.start + OVERLAP * model.tiling.margin)] = True
    across = [(one[..., 1:] - one[..., :-1]).abs().mean((0, 1, 2)) for one in (tiled, whole)]
    ratio, place = across[0] / across[1], torch.arange(383) % 8
    inside = torch.stack([ratio[(place == one) & ~overlap].mean() for one in range(8)])
    seams = ratio[overlap] / inside[place[overlap]]
    assert 0.95 < seams.min().item() <= seams.max().item() < 1.05


MEMORY = """
import sys, torch
from pathlib import Path
from jeppa.vae import HeteroscedasticVAE, Rows
def resident(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
torch.set_grad_enabled(False)
torch.set_num_threads(1)
model = HeteroscedasticVAE("tiny").eval()
model.enable_tiling(128, 16)
noise = torch.rand(1, 3, 128, 128) * 2 - 1
def run(side):
    for _ in model.reconstruct_rows(side, 128, lambda t, b, l, r: noise[:, :, :b - t, l:r]):
        pass
run(512)
before = resident("VmHWM")
run(4096)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_eight_times_the_picture_takes_no_more_memory():
    """A picture of 4096 rows after one of 512: as a whole its mean and variance alone would take 10.5 MiB more.

    Red when rows are kept after they were given away.
    """
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 5.0


def limited(net: Callable[[Tensor], DiagonalGaussian], places: int, error: Exception, seen: list[int]) -> Callable:
    """A net that lacks memory for more than this many places in a batch."""

    def run(batch: Tensor) -> DiagonalGaussian:
        seen.append(len(batch))
        if batch[:, 0].numel() > places:
            raise error
        return net(batch)

    return run


NO_MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cpu", "cuda", "python"])
@torch.no_grad()
def test_a_batch_that_does_not_fit_is_halved_and_the_answer_is_the_same(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Red when an error is not known, parts are joined in another order, or what did not fit is tried on the rest."""
    model, seen = without_norms(), []
    x = noise(5, 3, 32, 32)
    expected = model.encode(x).mean
    model.enable_tiling()
    monkeypatch.setattr(model, "_encode", limited(model._encode, 2 * 32 * 32, error, seen))
    torch.testing.assert_close(model.encode(x).mean, expected, atol=1e-5, rtol=1e-4)
    assert seen == [5, 3, 2, 2, 1]
    tried = ((5, 3), (3, 2))
    assert caplog.messages == [f"a batch of {a} does not fit in memory: trying {b} at a time" for a, b in tried]


@torch.no_grad()
def test_a_picture_that_does_not_fit_is_taken_in_tiles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Red when back-off ends at a batch of one."""
    model, seen = without_norms(), []
    x = noise(1, 3, 512, 512)
    expected = model.encode(x).mean
    model.enable_tiling()
    monkeypatch.setattr(model, "_encode", limited(model._encode, 256 * 256, NO_MEMORY[0], seen))
    assert (model.encode(x).mean - expected).square().mean().sqrt() < 1e-3 * expected.std()
    assert caplog.messages == ["512 pixels a side do not fit in memory: trying tiles of 256"]


@torch.no_grad()
def test_pictures_that_do_not_fit_one_at_a_time_are_all_taken_in_tiles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Red when the second picture is lost, or is tried in one piece again."""
    model, seen = without_norms(), []
    x = noise(2, 3, 512, 512)
    expected = model.encode(x).mean
    model.enable_tiling()
    monkeypatch.setattr(model, "_encode", limited(model._encode, 256 * 256, NO_MEMORY[0], seen))
    assert (model.encode(x).mean - expected).square().mean().sqrt() < 1e-3 * expected.std()
    assert len(caplog.messages) == 2
    assert seen[:2] == [2, 1]


@torch.no_grad()
def test_memory_that_runs_short_after_the_first_row_loses_no_row(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Red when rows that were given away are given again, rows are left out, or nothing more is tried."""
    model = without_norms()
    model.enable_tiling(480)
    x, whole = noise(1, 3, 624, 64), model._decode
    expected = model.reconstruct(x).mean
    given: list[Rows] = []

    def decode(z: Tensor) -> DiagonalGaussian:
        if given and z.shape[2] > 30:
            raise NO_MEMORY[0]
        return whole(z)

    monkeypatch.setattr(model, "_decode", decode)
    for rows in model.reconstruct_rows(624, 64, lambda top, bottom, left, right: x[:, :, top:bottom, left:right]):
        given.append(rows)
    found = torch.cat([rows.mean for rows in given], dim=2)
    assert found.shape == x.shape
    assert (found - expected).square().mean().sqrt() < 1e-3 * expected.std()
    assert caplog.messages == ["480 pixels a side do not fit in memory: trying tiles of 240"]


@torch.no_grad()
def test_what_does_not_fit_at_all_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch):
    model = without_norms()
    model.enable_tiling()
    monkeypatch.setattr(model, "_encode", limited(model._encode, 8, NO_MEMORY[0], []))
    with pytest.raises(DataError, match="512x512 pixels does not fit in memory") as caught:
        model.encode(noise(2, 3, 512, 512))
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_other_errors_of_the_net_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch):
    """Red when every RuntimeError halves the batch: a bug would be hidden behind notes about memory."""
    model = without_norms()
    model.enable_tiling()
    monkeypatch.setattr(model, "_encode", limited(model._encode, 0, RuntimeError("shapes do not match"), []))
    with pytest.raises(RuntimeError, match="shapes"):
        model.encode(noise(2, 3, 32, 32))


def test_without_tiling_everything_is_one_piece_again():
    model = HeteroscedasticVAE("tiny")
    assert model.tiling is None
    model.enable_tiling()
    assert model.tiling is not None
    model.disable_tiling()
    assert model.tiling is None


@pytest.mark.parametrize(("tile", "margin"), [(100, None), (232, None), (256, 56), (256, 4), (0, None)])
def test_tiles_that_cannot_be_are_refused(tile: int, margin: int | None):
    with pytest.raises(ConfigError, match=r"(tile|margin) is"):
        HeteroscedasticVAE("tiny").enable_tiling(tile, margin)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_keeps_half_the_side_of_a_tile_for_its_inside(preset: str):
    """Red when tiles are so small that most of the work is overlap."""
    config = PRESETS[preset]
    assert tile_for(config) - 3 * margin_for(config) >= tile_for(config) // 2


def test_the_widest_net_has_tiles_with_room_to_fade():
    """Red when only the width of the net decides."""
    wide = PRESETS["sd"].model_copy(update={"block_out_channels": (4096,) * 4})
    Tiling(tile_for(wide), margin_for(wide))
