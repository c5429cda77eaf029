"""The denoiser's variance head: free of cost to the mean, and added to a trained denoiser afterwards."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from jeppa.checkpoint import newest_checkpoint
from jeppa.config import DiffusionRun, load_run, parse
from jeppa.data import write_png
from jeppa.errors import ConfigError
from jeppa.pipeline import SamplerSettings, load_model
from jeppa.train import DiffusionObjective, like_denoiser, train, with_classes


def load_config(run: Path) -> DiffusionRun:
    config = load_run(run / "config.yaml")
    assert isinstance(config, DiffusionRun)
    return config


def weights(run: Path) -> dict[str, Tensor]:
    checkpoint, _ = newest_checkpoint(run)
    assert checkpoint is not None
    return {f"{name}/{key}": value for name in ("model", "ema") for key, value in checkpoint.tensors(name).items()}


def finish(config: DiffusionRun, run: Path) -> list[dict[str, float]]:
    objective = DiffusionObjective(config, load_model(Path(config.vae)).codec)
    return [record.figures for record in train(objective, run) if record.figures]


def test_the_net_is_bit_for_bit_that_of_a_run_without_variance(diffusion_folder: Path, tmp_path: Path):
    """Red when the head's features or the mean are not stopped, or both groups are clipped together."""
    plain = load_config(diffusion_folder).model_copy(update={"variance": False})
    finish(plain, tmp_path / "plain")
    with_head, without = weights(diffusion_folder), weights(tmp_path / "plain")
    assert len(without) > 100
    assert [key for key in without if not torch.equal(with_head[key], without[key])] == []
    heads = [key for key in with_head if key not in without]
    assert heads
    assert all(".head." in key for key in heads)
    assert load_model(tmp_path / "plain").denoiser.head is None


def test_a_head_is_added_to_a_trained_denoiser_and_leaves_it_alone(diffusion_folder: Path, tmp_path: Path):
    """Red when the net is trained on, or starts from other weights. The same seed: same pictures without the head."""
    plain = load_config(diffusion_folder).model_copy(update={"variance": False})
    finish(plain, tmp_path / "plain")
    values = {
        "vae": plain.vae,
        "denoiser": str(tmp_path / "plain"),
        "views": 16,
        "data": {"resolution": 32},
        "optim": {"steps": 40, "batch_size": 8, "log_every": 20, "warmup_steps": 0, "learning_rate": 0.003},
    }
    config = like_denoiser(parse(DiffusionRun, values, "test"))
    assert config.model.num_classes == plain.model.num_classes
    figures = finish(config, tmp_path / "added")
    assert figures[-1]["variance_nll"] < figures[0]["variance_nll"]
    before, after = load_model(tmp_path / "plain"), load_model(tmp_path / "added")
    for key, value in before.denoiser.unet.state_dict().items():
        assert torch.equal(value, after.denoiser.unet.state_dict()[key]), key
    settings = SamplerSettings(steps=2)
    assert torch.equal(next(before.generate([3], settings)).x, next(after.generate([3], settings)).x)
    assert any(value.abs().max() > 0 for value in after.denoiser.head.out.parameters())


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_every_kind_of_prediction_trains_and_samples(kind: str, vae_folder: Path, tmp_path: Path):
    """Red when the schedule of an eps-net has zero terminal SNR: its x0 there is not finite."""
    values = {
        "vae": str(vae_folder),
        "prediction": kind,
        "views": 16,
        "model": {"block_out_channels": [16, 16], "attention": [False, True]},
        "data": {"resolution": 32},
        "optim": {"steps": 2, "batch_size": 4, "log_every": 1},
    }
    figures = finish(parse(DiffusionRun, values, "test"), tmp_path / "run")
    assert 0.1 < figures[0]["mse"] < 2.0
    model = load_model(tmp_path / "run")
    assert model.denoiser.kind == kind
    assert next(model.generate([0], SamplerSettings(steps=4))).x.isfinite().all()


def test_what_cannot_take_a_head_is_one_line(vae_folder: Path, diffusion_folder: Path):
    with pytest.raises(
        ConfigError, match="a VAE without a denoiser, or no model at all; give the run folder of a denoiser"
    ):
        like_denoiser(parse(DiffusionRun, {"vae": str(vae_folder), "denoiser": str(vae_folder)}, "test"))
    with pytest.raises(ConfigError, match="denoiser keeps the net as it is, so variance must be learned"):
        parse(DiffusionRun, {"vae": "x", "denoiser": "y", "variance": False}, "test")
    values = {"vae": str(vae_folder), "denoiser": str(diffusion_folder), "data": {"resolution": 32}}
    with pytest.raises(ConfigError, match="its net differs from the settings"):
        DiffusionObjective(parse(DiffusionRun, values, "test"), load_model(vae_folder).codec)


def test_what_learns_on_starts_where_the_other_ended(diffusion_folder: Path, tmp_path: Path):
    """Red when net, head or the rows of known classes start anew, or a new class does not start as no class."""
    given = load_model(diffusion_folder)
    old, new = given.labels[1], "a class of its own"
    for label in (new, old):
        (tmp_path / "data" / "train" / label).mkdir(parents=True)
        (tmp_path / "data" / "val" / label).mkdir(parents=True)
        for split in ("train", "val"):
            write_png(torch.zeros(3, 32, 32), tmp_path / "data" / split / label / "one.png")
    values = {"vae": str(diffusion_folder), "classes": True, "data": {"data": str(tmp_path / "data"), "resolution": 32}}
    config = with_classes(like_denoiser(parse(DiffusionRun, values, "test"), diffusion_folder))
    model = DiffusionObjective(config, given.codec, diffusion_folder).model
    before, after = given.denoiser.state_dict(), model.state_dict()
    name = "unet.class_embedding.weight"
    assert [key for key in before if key != name and not torch.equal(before[key], after[key])] == []
    assert sorted([new, old]) == [new, old]
    assert torch.equal(after[name], before[name][[len(given.labels), 1, len(given.labels)]])


def test_a_vae_is_no_start_for_a_denoiser(vae_folder: Path):
    with pytest.raises(ConfigError, match="give the run folder of a denoiser"):
        like_denoiser(parse(DiffusionRun, {"vae": str(vae_folder)}, "test"), vae_folder)
