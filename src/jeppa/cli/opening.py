"""Opens the model that a command works with, and says how it will run."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jeppa.cli.terminal import say

if TYPE_CHECKING:
    from jeppa.pipeline import Model

Speed = Literal["auto", "exact"]


def opened(path: Path, precision: Speed) -> "Model":
    """The model of that folder or shipped name, as fast as `precision` allows on this machine, on its GPU if any."""
    import torch

    from jeppa.pipeline import load_model

    model = load_model(path, precision, "cuda" if torch.cuda.is_available() else "cpu")
    for note in model.notes:
        say(note)
    return model
