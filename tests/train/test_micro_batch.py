"""Micro batches trade time for memory: the steps are those of the whole batch, but for rounding."""

import gc
import math
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from jeppa.checkpoint import newest_checkpoint
from jeppa.config import DiffusionRun, OptimConfig, RunConfig, VAERun, load_run, parse
from jeppa.pipeline import load_model
from jeppa.runtime import EXACT
from jeppa.train import DiffusionObjective, VAEObjective, train
from jeppa.train.faults import explain_failures
from jeppa.train.step import Objective, Stepper, StepResult, split_batch

BATCH = 7


def vae(micro: int | None, **values: Any) -> VAEObjective:
    optim = {"batch_size": BATCH, "micro_batch": micro, "precision": "exact"}
    return VAEObjective(parse(VAERun, {"preset": "tiny", "data": {"resolution": 32}, "optim": optim, **values}, "test"))


def denoiser(folder: Path, micro: int | None) -> DiffusionObjective:
    config = load_run(folder / "config.yaml")
    assert isinstance(config, DiffusionRun)
    optim = config.optim.model_copy(update={"batch_size": BATCH, "micro_batch": micro, "precision": "exact"})
    return DiffusionObjective(config.model_copy(update={"optim": optim}), load_model(Path(config.vae)).codec)


def stepper(objective: VAEObjective | DiffusionObjective) -> Stepper:
    # With plain gradient descent a step is the gradient; Adam would divide rounding by its own size.
    optimizer = torch.optim.SGD([p for group in objective.groups() for p in group], 0.1)
    return Stepper(objective.train(), objective, optimizer, Accelerator(), EXACT)


def steps(objective: VAEObjective | DiffusionObjective, count: int = 2) -> list[StepResult]:
    taker = stepper(objective)
    batches = enumerate(objective.data.batches(0, count))
    return [taker.take(batch, torch.Generator().manual_seed(step)) for step, batch in batches]


def assert_equal_but_for_rounding(
    whole: VAEObjective | DiffusionObjective, cut: VAEObjective | DiffusionObjective
) -> None:
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    for wanted, found in zip(steps(whole), steps(cut), strict=True):
        assert wanted.terms.keys() == found.terms.keys()
        for key, value in wanted.terms.items():
            torch.testing.assert_close(found.terms[key], value, rtol=1e-3, atol=1e-5, msg=key)
        assert found.norm == pytest.approx(wanted.norm, rel=1e-4)
    after, same = whole.state_dict(), cut.state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in after.items())
    for key, value in after.items():
        torch.testing.assert_close(same[key], value, rtol=1e-4, atol=2e-6, msg=key)


@pytest.mark.parametrize(
    "values",
    [{"likelihood": "faithful"}, {"likelihood": "beta-nll", "rate": 0.05}, {"likelihood": "shared", "free_bits": 0.02}],
    ids=["faithful", "rate", "free bits"],
)
def test_a_vae_takes_the_steps_of_the_whole_batch(values: dict[str, Any]):
    """Seven crops in parts of 3, 3 and 1, then one crop of twice the side.

    Red when parts weigh the same whatever their size, draw their own noise, use their own mean error, or move the
    running error or beta once a part.
    """
    assert_equal_but_for_rounding(vae(None, **values), vae(3, **values))


def test_a_denoiser_takes_the_steps_of_the_whole_batch(diffusion_folder: Path):
    """Red when parts draw timesteps, dropped labels or noise of their own, or keep those of the first part."""
    assert_equal_but_for_rounding(denoiser(diffusion_folder, None), denoiser(diffusion_folder, 3))


def test_what_a_model_remembers_moves_once_a_step():
    objective = vae(2)
    (taken,) = steps(objective, 1)
    assert (int(objective.model.updates), int(objective.kl.steps)) == (1, 1)
    torch.testing.assert_close(objective.model.mean_square, taken.terms["squared_error"].mean())


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_one_sample_that_is_not_finite_spoils_the_step_and_nothing_else(share: float):
    """Red when the parts before or after it are taken, or state moves before the last part."""
    objective = vae(2)
    taker = stepper(objective)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    batch = next(iter(objective.data.batches(0, 1)))
    batch["x"][math.ceil(share * BATCH) - 1] = torch.nan
    assert taker.take(batch, torch.Generator().manual_seed(0)).norm is None
    assert [key for key, value in objective.state_dict().items() if not torch.equal(value, before[key])] == []
    assert all(parameter.grad is None for parameter in objective.parameters())


@pytest.mark.parametrize(
    ("crops", "batch_size", "micro", "expected"),
    [(32, 32, None, [32]), (32, 32, 8, [8] * 4), (8, 32, 8, [2] * 4), (2, 32, 8, [1, 1]), (7, 7, 3, [3, 3, 1]),
     (4, 4, 9, [4]), (1, 8, 2, [1])],
)  # fmt: skip
def test_fewer_larger_crops_are_cut_into_the_same_share_of_pixels(
    crops: int, batch_size: int, micro: int | None, expected: list[int]
):
    """Red when parts hold as many crops whatever their size: 8 of 256 pixels need 16 times the memory of 8 of 64."""
    found = split_batch({"x": torch.arange(crops)}, OptimConfig(batch_size=batch_size, micro_batch=micro))
    assert [len(part["x"]) for part in found] == expected
    assert torch.equal(torch.cat([part["x"] for part in found]), torch.arange(crops))


class Saved:
    """A tensor that the graph keeps for the way back."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Kept:
    """The most bytes beside the weights that forward passes kept for the way back at any time."""

    def __init__(self, model: nn.Module) -> None:
        self.most = 0
        self._weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._bytes: dict[int, int] = {}
        self._holders: Counter[int] = Counter()

    def pack(self, value: Tensor) -> Saved:
        storage, saved = value.untyped_storage(), Saved(value)
        if storage.data_ptr() not in self._weights:
            self._bytes[storage.data_ptr()] = storage.nbytes()
            self._holders[storage.data_ptr()] += 1
            self.most = max(self.most, sum(self._bytes.values()))
            weakref.finalize(saved, self._release, storage.data_ptr())
        return saved

    def _release(self, pointer: int) -> None:
        self._holders[pointer] -= 1
        if not self._holders[pointer]:
            del self._bytes[pointer]


def most_kept(objective: Objective) -> int:
    kept, taker = Kept(objective), stepper(objective)
    batch = next(iter(objective.data.batches(0, 1)))
    gc.collect()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda saved: saved.value):
        taker.take(batch, torch.Generator().manual_seed(0))
    return kept.most


def test_one_crop_at_a_time_keeps_a_fraction_of_the_activations():
    """Red when the graph of a part lives until the last part is done."""
    whole, single = most_kept(vae(None)), most_kept(vae(1))
    assert single < 1.5 / BATCH * whole


def test_a_run_goes_on_with_micro_batches_as_it_is(tiny_run: VAERun, tmp_path: Path):
    """The remedy for a lack of memory needs no --allow-change. Red when it counts as another setting."""
    config = tiny_run.model_copy(update={"optim": tiny_run.optim.model_copy(update={"precision": "exact"})})
    first(config, tmp_path / "run", until=3)
    smaller = config.model_copy(update={"optim": config.optim.model_copy(update={"micro_batch": 1})})
    for _ in train(VAEObjective(smaller), tmp_path / "run", resume=True):
        pass
    checkpoint, _ = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert checkpoint.step == 6


def first(config: RunConfig, run: Path, until: int) -> None:
    assert isinstance(config, VAERun)
    for record in train(VAEObjective(config), run):
        if record.step == until + 1:
            return


@pytest.mark.parametrize(
    ("batch_size", "micro", "remedy"),
    [(8, None, r"--batch-size 4 \(with --resume also --allow-change settings\), or --micro-batch 4 for the same"),
     (8, 4, "4 at a time; try --micro-batch 2$"), (8, 1, "1 at a time; try --resolution 32"),
     (1, None, "try --resolution 32")],
)  # fmt: skip
def test_out_of_memory_names_the_next_smaller_thing(batch_size: int, micro: int | None, remedy: str):
    optim = OptimConfig(batch_size=batch_size, micro_batch=micro)
    with pytest.raises(Exception, match=remedy), explain_failures(Path("run"), optim, 64):
        raise MemoryError
