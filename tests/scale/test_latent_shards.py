"""Latents on the disk: every picture once, the same bytes whoever makes them, and the weights of pictures."""

import tarfile
from pathlib import Path

import pytest
import torch
from folders import contents
from runs import everything

from jeppa.cli import run
from jeppa.errors import ConfigError, DataError
from jeppa.pipeline import load_model
from jeppa.scale.engine import require, run_blocks
from jeppa.scale.latents import LatentShards, read_skipped, shard_path

FLAGS = ("--resolution", "32", "--crops", "2", "--workers", "1")


def encode(vae: Path, data: Path, out: Path, *flags: str, split: str = "all", size: int = 8) -> int:
    arguments = [
        "--model",
        str(vae),
        "--data",
        str(data),
        "--out",
        str(out),
        "--split",
        split,
        "--per-shard",
        str(size),
    ]
    return run(["encode", *arguments, *FLAGS, *flags])


@pytest.fixture(scope="module")
def latents(vae_folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty latents in three shards; not to be written to."""
    out = tmp_path_factory.mktemp("latents") / "out"
    assert encode(vae_folder, pictures, out) == 0
    return out


def test_webdataset_reads_every_id_once(latents: Path):
    """Red when a shard repeats or leaves out a position, or webdataset takes what is about the shard for a sample."""
    import webdataset

    urls = [str(shard_path(latents, shard)) for shard in range(3)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [int(sample["__key__"]) for sample in samples] == list(range(20))
    assert all(len(sample["safetensors"]) > 100 for sample in samples)


def test_what_was_killed_goes_on_and_gives_the_same_bytes(
    latents: Path, vae_folder: Path, pictures: Path, tmp_path: Path
):
    """Red when a half-written shard counts, bytes depend on time or process, or what is there is made again."""
    out = tmp_path / "out"
    assert encode(vae_folder, pictures, out) == 0
    kept = shard_path(out, 0).stat().st_mtime_ns
    shard_path(out, 1).unlink()
    (out / ".half.tmp").write_bytes(shard_path(out, 2).read_bytes()[:100])
    shard_path(out, 2).unlink()
    assert encode(vae_folder, pictures, out) == 0
    (out / ".half.tmp").unlink()
    assert contents(out) == contents(latents)
    assert shard_path(out, 0).stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("flags", "line"),
    [(("--seed", "1"), "seed was 0 and is 1"), (("--dtype", "bf16"), "dtype was fp16 and is bf16"),
     (("--model", "small"), "vae was ")],
)  # fmt: skip
def test_other_latents_are_refused_in_the_same_folder(
    flags: tuple[str, ...], line: str, latents: Path, vae_folder: Path, pictures: Path, capsys: pytest.CaptureFixture
):
    before = contents(latents)
    named = {"--dtype": "fp16", "--model": str(vae_folder), "--seed": "0", "--per-shard": "8", **dict([flags])}
    others = [word for flag in named.items() for word in flag]
    assert run(["encode", "--data", str(pictures), "--out", str(latents), "--split", "all", *FLAGS, *others]) == 2
    assert line in capsys.readouterr().err
    assert contents(latents) == before


def test_a_shard_that_is_cut_off_or_missing_is_one_line(latents: Path, tmp_path: Path):
    """Red when the latents of a damaged shard are trained on, or passed over in silence."""
    for name, data in contents(latents).items():
        (tmp_path / name).write_bytes(data)
    shard_path(tmp_path, 1).write_bytes(shard_path(latents, 1).read_bytes()[:5000])
    with pytest.raises(DataError, match=r"shard-000001.tar: is cut off or damaged .* run jeppa encode again"):
        LatentShards(tmp_path)
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(DataError, match=r"shard-000001.tar: is missing"):
        LatentShards(tmp_path)


def test_a_picture_that_breaks_while_it_is_read_is_left_out_and_named(
    vae_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from jeppa.data import CropDataset, open_source
    from jeppa.scale.encode import plan_encoding
    from jeppa.scale.latents import CropSettings

    read = CropDataset.__getitem__

    def broken(self: CropDataset, n: int):
        if n == 3:
            raise DataError("3.png: it is damaged")
        return read(self, n)

    monkeypatch.setattr(CropDataset, "__getitem__", broken)
    job = plan_encoding(vae_folder, open_source(pictures), tmp_path / "out", CropSettings(resolution=32, per_shard=8))
    assert sorted(run_blocks(job, "local", 1)) == [0, 1]
    assert read_skipped(tmp_path / "out") == {3: "3.png: it is damaged"}
    assert len(LatentShards(tmp_path / "out")) == len(open_source(pictures)) - 1


def test_latents_give_the_weights_that_their_pictures_give(vae_folder: Path, pictures: Path, tmp_path: Path):
    """Red when order, crops, labels or bits of the latents differ from those that the training encodes itself."""
    flags = ["--vae", str(vae_folder), "--classes", "--steps", "3", "--batch-size", "4", "--sample-every", "100",
             "--precision", "exact"]  # fmt: skip
    (tmp_path / "net.yaml").write_text("model: {block_out_channels: [16, 16], attention: [false, true]}\n")
    flags += ["--config", str(tmp_path / "net.yaml")]
    assert encode(vae_folder, pictures, tmp_path / "latents", "--dtype", "fp32", split="train", size=32) == 0
    plain = ["--data", str(pictures), "--resolution", "32", "--views", str(len(LatentShards(tmp_path / "latents")))]
    assert run(["train", "diffusion", "--out", str(tmp_path / "a"), *plain, *flags]) == 0
    stored = ["--latents", str(tmp_path / "latents")]
    assert run(["train", "diffusion", "--out", str(tmp_path / "b"), *stored, *flags]) == 0
    first, second = everything(tmp_path / "a"), everything(tmp_path / "b")
    assert first.keys() == second.keys()
    assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []
    assert load_model(tmp_path / "b").labels == ("even", "odd")


def test_latents_of_other_crops_are_refused(vae_folder: Path, latents: Path, tmp_path: Path, capsys):
    flags = ["--vae", str(vae_folder), "--latents", str(latents), "--resolution", "64"]
    assert run(["train", "diffusion", "--out", str(tmp_path / "run"), *flags]) == 2
    assert "resolution of the latents is 32, but the run asks for 64" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_not_installed_is_named_with_its_remedy():
    with pytest.raises(ConfigError, match=r"jeppa encode needs nosuch: pip install 'jeppa\[scale\]'"):
        require("jeppa encode", "tarfile", "nosuch")


def test_the_shard_says_what_it_holds(latents: Path):
    """Red when the hash of the VAE, the statistics or the ids are not in the shard itself."""
    from jeppa.files import parse_json

    with tarfile.open(shard_path(latents, 2)) as tar:
        first = tar.next()
        content = parse_json(tar.extractfile(first).read(), "test")
    assert first.name == "__about__/shard.json"
    assert len(content["vae"]) == 64
    assert len(content["statistics"]["shift"]) == 4
    assert content["ids"] == [16, 17, 18, 19]
