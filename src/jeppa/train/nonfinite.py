"""NaN and infinity: steps that meet them leave no trace, and they are never saved."""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from jeppa.errors import TrainingError

BAD_STEPS_IN_A_ROW = 10


def blame(model: nn.Module, terms: dict[str, Tensor]) -> str:
    """What is not finite: a weight, else the terms of the loss `[B]`, else the gradient."""
    weight = next(_non_finite(dict(model.named_parameters())), None)
    bad = [key for key, value in terms.items() if not bool(value.isfinite().all())]
    if weight is not None:
        return f"the weight {weight}"
    return ", ".join(bad) if bad else "a gradient"


def refuse_to_keep(run: Path, step: int, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer) -> None:
    """Raise `TrainingError` if there is anything in the model, its average or the optimizer that is not finite."""
    state = optimizer.state_dict()["state"]
    named = {
        **model.state_dict(),
        **{f"average {index}": value for index, value in enumerate(ema.shadow_params)},
        **{
            f"{name} {index} of the optimizer": value for index, entry in state.items() for name, value in entry.items()
        },
    }
    bad = next(_non_finite(named), None)
    if bad is not None:
        raise TrainingError(f"{run}: {bad} is not finite after step {step}, so it is not saved; {REMEDY}")


REMEDY = (
    "the last checkpoint is good: go on with --resume --allow-change settings and a lower --learning-rate or "
    "--precision exact"
)


def explosion(run: Path, step: int, culprit: str) -> str:
    """The message that ends a run whose steps are skipped one after the other."""
    return f"{run}: {culprit} was not finite in {BAD_STEPS_IN_A_ROW} steps in a row, the last one {step}; {REMEDY}"


def _non_finite(tensors: dict[str, Tensor]) -> Iterator[str]:
    return (name for name, value in tensors.items() if not bool(value.isfinite().all()))
