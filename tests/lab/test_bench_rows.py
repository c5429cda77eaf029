"""Every bench runs through, here on small nets and pictures; what it finds is not looked at."""

from collections.abc import Callable, Iterator

import pytest
import torch

from jeppa.config import VAEConfig
from jeppa.lab import bench
from jeppa.lab.bench import Row

NARROW = VAEConfig(
    pixel_unshuffle=1, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
    mid_block_attention=True, sigma_channels=8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SD_SIDE", 64)
    monkeypatch.setattr(bench, "PRESET", NARROW)
    monkeypatch.setattr(bench, "PRODUCT_SIDES", (64,))
    monkeypatch.setattr(bench, "MODEL", NARROW)
    monkeypatch.setattr(bench, "TRAINING_BATCH", 2)
    monkeypatch.setattr("jeppa.train.shown.STATISTICS_IMAGES", 4)
    monkeypatch.setattr(bench, "LATENT_SIDE", 8)
    monkeypatch.setattr(bench, "STEPS", 2)
    monkeypatch.setattr(bench, "SIDES", (64, 128, 256))
    monkeypatch.setattr(bench, "BATCHES", (1, 2, 3))


@pytest.mark.parametrize(
    ("bench", "names"),
    [
        (
            bench.sd_rows,
            "sd_encode_512 sd_decode_512 sd_decode_512_psnr sigma_overhead matmul_share small_against_sd_512",
        ),
        (bench.training_rows, "small_train_64"),
        (bench.sampling_rows, "ddim_step_512 ddim_25_512 ddim_25_512_learned"),
        pytest.param(
            bench.growth_rows,
            "pixels_time_exponent pixels_memory_exponent batch_time_exponent batch_memory_exponent",
            marks=pytest.mark.slow,  # each size in a process of its own
        ),
    ],
)
def test_a_bench_gives_its_rows(bench: Callable[[int], Iterator[Row]], names: str):
    rows = {row.name: row for row in bench(1)}
    assert list(rows) == names.split()
    for row in rows.values():
        assert row.ratio_min <= row.ratio_max
    if "sd_decode_512_psnr" in rows:
        assert rows["sd_decode_512_psnr"].ratio > 40  # of the same weights: red when the twins differ


@pytest.mark.slow  # a process of its own
def test_the_memory_of_a_picture_is_seen_beside_a_large_parent():
    """Red when the peak is that of getrusage, which begins with the parent's."""
    parent = torch.ones(200_000_000)
    _, mib = bench._run_alone(bench._picture, 512, 1)
    assert mib > 10.0
    del parent
