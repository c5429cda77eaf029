"""Pictures as a job: each depends on its seed alone, and what was killed goes on."""

from pathlib import Path

import pytest
from folders import contents

from jeppa.cli import run
from jeppa.config import SamplerSettings
from jeppa.scale.engine import run_blocks
from jeppa.scale.sample import plan_sampling

NUMBER = 20


def generate(model: Path, out: Path, *flags: str, number: int = NUMBER) -> int:
    return run(["generate", "--model", str(model), "--out", str(out), "-n", str(number), "--steps", "2", *flags])


@pytest.fixture(scope="module")
def made(diffusion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures; not to be written to."""
    out = tmp_path_factory.mktemp("made") / "out"
    assert generate(diffusion_folder, out, "--workers", "1") == 0
    return out


def test_a_picture_is_that_of_its_seed_in_any_order(made: Path, diffusion_folder: Path, tmp_path: Path):
    """Red when seeds that are made together or before change a picture."""
    rows = [(seed, SamplerSettings(steps=2)) for seed in (19, 3, 11)]
    assert list(run_blocks(plan_sampling(diffusion_folder, tmp_path / "out", rows), "local", 1)) == [0]
    found = contents(tmp_path / "out")
    assert len(contents(made)) == NUMBER + 1
    for name in ("000003.png", "000011.png", "000019.png"):
        assert found[name] == contents(made)[name]


def test_what_is_there_stays_and_what_is_missing_is_made(made: Path, diffusion_folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert generate(diffusion_folder, out, "--workers", "1") == 0
    kept = (out / "000004.png").stat().st_mtime_ns
    for seed in (5, 17):
        (out / f"{seed:06d}.png").unlink()
    assert generate(diffusion_folder, out, "--workers", "1") == 0
    assert contents(out) == contents(made)
    assert (out / "000004.png").stat().st_mtime_ns == kept


def test_shards_hold_the_same_pictures(made: Path, diffusion_folder: Path, tmp_path: Path):
    """Red when a shard repeats or leaves out a seed, or its picture has other bytes."""
    webdataset = pytest.importorskip("webdataset")
    out = tmp_path / "out"
    assert generate(diffusion_folder, out, "--workers", "1", "--shard", "8") == 0
    urls = [str(path) for path in sorted(out.glob("shard-*.tar"))]
    assert len(urls) == 3
    samples = {int(one["__key__"]): one["png"] for one in webdataset.WebDataset(urls, shardshuffle=False)}
    assert {f"{seed:06d}.png": data for seed, data in samples.items()} == {
        name: data for name, data in contents(made).items() if name.endswith(".png")
    }


@pytest.mark.parametrize(
    ("flags", "line"),
    [(("--eta", "0.5"), "holds other pictures: rows was"), (("--keep", "0.5"), "do not go with engine ray, workers"),
     (("--shard", "0"), "shard is 0"), (("--label", "none such"), "label is 'none such'")],
)  # fmt: skip
def test_what_cannot_be_made_is_one_line(
    flags: tuple[str, ...], line: str, made: Path, diffusion_folder: Path, capsys: pytest.CaptureFixture
):
    before = contents(made)
    assert generate(diffusion_folder, made, "--workers", "1", *flags) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    assert contents(made) == before
