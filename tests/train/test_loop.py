import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jeppa.checkpoint import newest_checkpoint
from jeppa.config import DiffusionRun, VAERun, load_run
from jeppa.errors import ConfigError
from jeppa.pipeline import load_model
from jeppa.train import DiffusionObjective, VAEObjective, train


def everything(run: Path) -> dict[str, Tensor]:
    checkpoint, _ = newest_checkpoint(run)
    assert checkpoint is not None
    names = ("model", "ema", "optimizer")
    return {f"{name}/{key}": value for name in names for key, value in checkpoint.tensors(name).items()}


def assert_bitwise_equal(a: Path, b: Path) -> None:
    first, second = everything(a), everything(b)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def changed(config: VAERun, **optim: object) -> VAERun:
    return config.model_copy(update={"optim": config.optim.model_copy(update=optim)})


def finish(config: VAERun, run: Path, resume: bool = False) -> None:
    for _ in train(VAEObjective(config), run, resume):
        pass


def test_the_same_seed_gives_the_same_weights_twice(tiny_run: VAERun, vae_folder: Path, tmp_path: Path):
    """Red when the noise comes from torch's global generator."""
    torch.manual_seed(123)
    finish(tiny_run, tmp_path / "again")
    assert_bitwise_equal(tmp_path / "again", vae_folder)


def test_another_seed_gives_other_weights(tiny_run: VAERun, vae_folder: Path, tmp_path: Path):
    finish(tiny_run.model_copy(update={"seed": 1}), tmp_path / "other")
    assert not torch.equal(
        everything(tmp_path / "other")["model/model.vae.encoder.conv_in.weight"],
        everything(vae_folder)["model/model.vae.encoder.conv_in.weight"],
    )


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_run: VAERun, vae_folder: Path, tmp_path: Path):
    """Red when optimizer, averaged weights, schedule or data position are not restored."""
    run = tmp_path / "run"
    for record in train(VAEObjective(tiny_run), run):
        if record.step == 5:
            break
    checkpoint, _ = newest_checkpoint(run)
    assert checkpoint is not None
    assert checkpoint.step == 3
    finish(tiny_run, run, resume=True)
    assert_bitwise_equal(run, vae_folder)
    lines = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines == [2, 4, 6]


def test_a_resumed_denoiser_equals_an_uninterrupted_one(diffusion_folder: Path, vae_folder: Path, tmp_path: Path):
    config = load_config(diffusion_folder)
    for record in train(DiffusionObjective(config, load_model(vae_folder).codec), tmp_path / "run"):
        if record.step == 3:
            break
    for _ in train(DiffusionObjective(config, load_model(vae_folder).codec), tmp_path / "run", resume=True):
        pass
    assert_bitwise_equal(tmp_path / "run", diffusion_folder)


def load_config(run: Path) -> DiffusionRun:
    config = load_run(run / "config.yaml")
    assert isinstance(config, DiffusionRun)
    return config


def test_the_faithful_mean_is_bit_for_bit_that_of_the_shared_twin(tiny_run: VAERun, vae_folder: Path, tmp_path: Path):
    """Red when features or mean are not stopped, or when both groups are clipped together."""
    finish(tiny_run.model_copy(update={"likelihood": "shared"}), tmp_path / "shared")
    faithful, shared = everything(vae_folder), everything(tmp_path / "shared")
    keys = [key for key in shared if key.startswith(("model/", "ema/"))]
    assert len(keys) > 100
    assert [key for key in keys if not torch.equal(faithful[key], shared[key])] == []
    assert any("sigma_head" in key for key in faithful)


def bound(objective: VAEObjective) -> float:
    """ELBO of some fixed crops in bits a dimension."""
    objective.eval()
    batches = objective.data.batches(0, 6)
    with torch.no_grad():
        terms = [objective(objective.draw(batch, torch.Generator().manual_seed(0))) for batch in batches]
    objective.train()
    return sum(float((term["distortion"] + term["rate"]).mean()) for term in terms) / len(terms)


def test_training_lowers_the_bound(tiny_run: VAERun, tmp_path: Path):
    """Red when the loss has the wrong sign, or the shared error is not tracked."""
    config = changed(tiny_run, steps=60, save_every=60, sample_every=60)
    objective = VAEObjective(config)
    before = bound(objective)
    for _ in train(objective, tmp_path / "run"):
        pass
    assert bound(objective) < before - 1.0


def test_a_run_is_never_overwritten(tiny_run: VAERun, vae_folder: Path):
    before = everything(vae_folder)
    with pytest.raises(ConfigError, match="--resume"):
        finish(tiny_run, vae_folder)
    assert before.keys() == everything(vae_folder).keys()


def test_other_settings_are_refused_on_resume_and_named(tiny_run: VAERun, vae_folder: Path):
    with pytest.raises(ConfigError, match=r"optim.learning_rate was 0.0003 and is 0.5"):
        finish(changed(tiny_run, learning_rate=0.5), vae_folder, resume=True)


def test_log_intervals_may_change_on_resume(tiny_run: VAERun, vae_folder: Path):
    finish(changed(tiny_run, log_every=1), vae_folder, resume=True)
