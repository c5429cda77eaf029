"""Training of a texture head: the VAE stays, each net has its own loss, and a stopped run goes on bit for bit."""

from pathlib import Path

import pytest
import torch

from jeppa.config import TextureRun, parse
from jeppa.pipeline import load_model
from jeppa.train import TextureObjective, train

SETTINGS = {
    "data": {"resolution": 32},
    "model": {"channels": 8, "blocks": 1},
    "discriminator_channels": 8,
    "replay": 6,
    "optim": {"steps": 6, "batch_size": 2, "save_every": 3, "sample_every": 6, "log_every": 2, "warmup_steps": 0,
              "learning_rate": 1e-2, "precision": "exact"},
}  # fmt: skip


@pytest.fixture
def config(vae_folder: Path) -> TextureRun:
    return parse(TextureRun, {**SETTINGS, "vae": str(vae_folder)}, "test")


def run(config: TextureRun, folder: Path, resume: bool = False, steps: int | None = None) -> None:
    objective = TextureObjective(config, load_model(config.vae).codec)
    for record in train(objective, folder, resume):
        if record.step == steps:
            return


def test_the_head_learns_and_all_else_stays_bit_for_bit(config: TextureRun, vae_folder: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "run")
    before, after = load_model(vae_folder).codec.vae, load_model(tmp_path / "run").codec.vae
    assert after.texture_head is not None
    assert after.texture_head.out.weight.abs().max() > 0.0
    state = after.state_dict()
    assert [key for key, value in before.state_dict().items() if not torch.equal(value, state[key])] == []


def test_a_run_that_goes_on_ends_with_the_same_weights(config: TextureRun, tmp_path: Path) -> None:
    """Red when the older crops are not saved, or are not drawn from the step's generator."""
    run(config, tmp_path / "whole")
    run(config, tmp_path / "halves", steps=3)
    run(config, tmp_path / "halves", resume=True)
    whole, halves = (load_model(tmp_path / name).codec.vae.texture_head for name in ("whole", "halves"))
    assert whole is not None
    assert halves is not None
    assert [key for key, value in whole.state_dict().items() if not value.equal(halves.state_dict()[key])] == []


def test_each_net_learns_from_its_own_loss(config: TextureRun) -> None:
    """Red when the discriminator's weights are not held for the head, or the picture is not stopped for it."""
    objective = TextureObjective(config, load_model(config.vae).codec)
    with torch.no_grad():
        objective.head.out.weight.normal_(std=0.1)
    batch = objective.draw(next(objective.data.batches(0, 1)), torch.Generator().manual_seed(0))
    terms = objective(batch)
    terms["adversarial"].sum().backward(retain_graph=True)
    assert all(weight.grad is None for weight in objective.discriminator.parameters())
    assert objective.head.out.weight.grad is not None
    objective.zero_grad()
    terms["discriminator"].sum().backward()
    assert objective.head.out.weight.grad is None
    assert all(weight.grad is not None for weight in objective.discriminator.parameters())


def test_nothing_that_asks_for_texture_is_one_line(vae_folder: Path) -> None:
    from jeppa.errors import ConfigError

    with pytest.raises(ConfigError, match="nothing would teach texture"):
        parse(TextureRun, {"vae": str(vae_folder), "perceptual": 0.0, "adversarial": 0.0}, "test")
