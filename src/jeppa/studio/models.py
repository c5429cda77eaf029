"""The models that the page offers, opened when first used and kept open."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jeppa.config import Precision
from jeppa.errors import JeppaError
from jeppa.shipped import SHIPPED

if TYPE_CHECKING:
    from jeppa.pipeline import Model

OPEN = 4
"""Models that stay in memory at once."""


class Models:
    """The shipped models, and the folders that a person named.

    Args:
        given: folders or shipped names, which come first.
        precision: as for `load_model`.
        device: as for `load_model`; a GPU if there is one unless given.
    """

    def __init__(self, given: Sequence[str] = (), precision: Precision = "auto", device: str | None = None) -> None:
        self._names = list(dict.fromkeys([*given, *(model.name for model in SHIPPED)]))
        self._precision: Precision = precision
        self._device = device
        self._open: dict[str, Model] = {}
        self._lock = threading.Lock()

    def names(self, fits: Callable[[str], bool] = lambda name: True) -> list[str]:
        """All names that can be chosen, the given ones first."""
        return [name for name in self._names if fits(name)]

    def add(self, name: str) -> None:
        """Offer one more; it is opened anew, because a run goes on."""
        with self._lock:
            self._open.pop(name, None)
            if name not in self._names:
                self._names.insert(0, name)

    def open(self, name: str) -> "Model":
        """The model of that name.

        Raises:
            CheckpointError: it cannot be read, or its folder is gone.
            JeppaError: the name is not among those offered.
        """
        if not isinstance(name, str) or name not in self._names:
            raise JeppaError(f"model {name!r} is not offered here")
        with self._lock:
            found = self._open.pop(name, None)
            if found is not None and name not in {one.name for one in SHIPPED} and not Path(name).exists():
                found = None
            if found is None:
                import torch

                from jeppa.pipeline import load_model

                device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
                found = load_model(name, self._precision, device)
            self._open[name] = found
            while len(self._open) > OPEN:
                self._open.pop(next(iter(self._open)))
            return found


KINDS = {model.name: model.kind for model in SHIPPED}


def draws(name: str) -> bool:
    """Whether a shipped name is that of a denoiser; any folder may be one."""
    return KINDS.get(name, "denoiser") == "denoiser"


def reconstructs(name: str) -> bool:
    """Whether the name stands for a VAE of its own; a shipped denoiser brings the VAE of another model."""
    return KINDS.get(name, "vae") == "vae"
