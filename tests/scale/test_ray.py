"""Ray gives what one process gives, whichever worker does a block and when. One local Ray for the module."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import contents

from jeppa.cli import run
from jeppa.config import SamplerSettings
from jeppa.errors import ConfigError
from jeppa.scale import engine
from jeppa.scale.engine import run_blocks
from jeppa.scale.sample import plan_sampling

WORKERS = 2


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """A Ray on 127.0.0.1 with two processors, stopped at the end."""
    with engine.open_cluster(WORKERS):
        yield


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_writes_the_bytes_of_one_process(ray_here: None, vae_folder: Path, pictures: Path, tmp_path: Path):
    """Red when a crop or a batch depends on the worker, workers use more threads, or Ray listens to other machines."""
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    flags = ["--model", str(vae_folder), "--data", str(pictures), "--split", "all", "--resolution", "32",
             "--per-shard", "2"]  # fmt: skip
    assert run(["encode", *flags, "--out", str(tmp_path / "ray"), "--engine", "ray", "--workers", "2"]) == 0
    assert run(["encode", *flags, "--out", str(tmp_path / "local"), "--workers", "1"]) == 0
    assert len(contents(tmp_path / "ray")) == 6
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pictures_in_any_order_are_those_of_their_seeds(ray_here: None, diffusion_folder: Path, tmp_path: Path):
    """Red when noise or bits depend on the batch, the worker or the order."""
    settings = SamplerSettings(steps=2)
    rows = [(seed, settings) for seed in range(40)]
    random.Random(0).shuffle(rows)
    done = run_blocks(plan_sampling(diffusion_folder, tmp_path / "ray", rows), "ray", WORKERS)
    assert len(list(done)) == 3
    alone = [(seed, settings) for seed in (0, 17, 39)]
    list(run_blocks(plan_sampling(diffusion_folder, tmp_path / "alone", alone), "local", 1))
    found, wanted = contents(tmp_path / "ray"), contents(tmp_path / "alone")
    assert len(found) == 41
    for name in ("000000.png", "000017.png", "000039.png"):
        assert found[name] == wanted[name]


def test_a_cluster_that_cannot_be_reached_is_one_line():
    """Red when Ray tries for minutes, or prints a traceback."""
    with pytest.raises(ConfigError, match=r"Ray cluster 127.0.0.1:1: cannot be reached .* check RAY_ADDRESS"):
        engine.check_reachable("127.0.0.1:1")
