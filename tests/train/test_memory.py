"""Gradient checkpointing trades time for memory and nothing else."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from jeppa.config import VAERun, parse
from jeppa.train import VAEObjective
from jeppa.train.step import Batch

LAYERS = {
    "pixel_unshuffle": 1, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4,
    "mid_block_attention": True, "sigma_channels": 8,
}  # fmt: skip


def objective(checkpointing: bool) -> VAEObjective:
    values: dict[str, Any] = {
        "preset": None, "model": LAYERS, "data": {"resolution": 64},
        "optim": {"batch_size": 4, "gradient_checkpointing": checkpointing},
    }  # fmt: skip
    return VAEObjective(parse(VAERun, values, "test"))


@pytest.fixture(scope="module")
def both() -> tuple[VAEObjective, VAEObjective]:
    return objective(False), objective(True)


def drawn(one: VAEObjective) -> Batch:
    return one.draw(next(iter(one.data.batches(0, 1))), torch.Generator().manual_seed(0))


def gradients(one: VAEObjective) -> tuple[Tensor, list[Tensor]]:
    one.zero_grad()
    loss = one(drawn(one))["loss"].mean()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in one.parameters() if p.grad is not None]


def kept_for_the_way_back(one: VAEObjective) -> int:
    """Bytes that the forward pass leaves for the backward pass."""
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    gc.collect()
    batch = drawn(one)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        one(batch)
    return sum(kept.values())


def test_checkpointing_gives_the_same_loss_and_gradients(both: tuple[VAEObjective, VAEObjective]):
    plain, frugal = both
    loss, wanted = gradients(plain)
    same, found = gradients(frugal)
    assert torch.equal(loss, same)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_checkpointing_keeps_less_than_half_of_the_activations(both: tuple[VAEObjective, VAEObjective]):
    """Red when the blocks of the decoder, which we call one by one, are not checkpointed."""
    plain, frugal = both
    assert kept_for_the_way_back(frugal) < 0.5 * kept_for_the_way_back(plain)
