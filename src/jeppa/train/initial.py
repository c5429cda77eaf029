"""Where the training of a denoiser starts: a trained net that is kept as it is, or one that learns on."""

from pathlib import Path

import torch
from torch import Tensor, nn

from jeppa.config import DiffusionRun
from jeppa.diffusion import Denoiser
from jeppa.errors import CheckpointError, ConfigError
from jeppa.pipeline import Model, describe_denoiser

CLASSES = "class_embedding.weight"


def like_denoiser(config: DiffusionRun, init: Path | None = None) -> DiffusionRun:
    """`config` with the architecture of the trained denoiser that it keeps, or else of `init`, if there is one.

    What is kept knows its classes, and its variance head is new; what learns on takes the classes of the new data.

    Raises:
        ConfigError: there is no denoiser.
    """
    source = config.denoiser or init
    if source is None:
        return config
    found = describe_denoiser(source)
    if config.denoiser is None:
        model = found.config.model_copy(update={"num_classes": None})
        return config.model_copy(update={"model": model, "prediction": found.prediction})
    model = found.config.model_copy(update={"variance_channels": config.model.variance_channels})
    classes = found.config.num_classes is not None
    return config.model_copy(update={"model": model, "prediction": found.prediction, "classes": classes})


def keep(denoiser: Denoiser, trained: Model) -> None:
    """Take over the net of a trained denoiser and freeze it."""
    try:
        denoiser.unet.load_state_dict(_net(trained).unet.state_dict())
    except RuntimeError:
        raise _differs(trained) from None
    denoiser.unet.requires_grad_(False)


def start_from(denoiser: Denoiser, labels: tuple[str, ...], trained: Model) -> None:
    """Take over net and variance head; a class of a known name keeps what was learned of it, a new one starts as none.

    Args:
        denoiser: to change.
        labels: its classes.
        trained: where from.

    Raises:
        CheckpointError: `trained` is a VAE.
        ConfigError: another architecture.
    """
    given = _net(trained)
    try:
        _take(denoiser.unet, given.unet, {CLASSES: _classes(denoiser, labels, trained)})
        if denoiser.head is not None and given.head is not None:
            _take(denoiser.head, given.head, {})
    except RuntimeError:
        raise _differs(trained) from None


def _take(net: nn.Module, given: nn.Module, instead: dict[str, Tensor | None]) -> None:
    state = {name: value for name, value in given.state_dict().items() if name not in instead}
    net.load_state_dict(state | {name: value for name, value in instead.items() if value is not None})


def _classes(denoiser: Denoiser, labels: tuple[str, ...], trained: Model) -> Tensor | None:
    """Rows of the class embedding by name, the last one being that of no class; None for a net without classes."""
    if denoiser.unet.config.num_class_embeds is None:
        return None
    fresh: Tensor = denoiser.unet.state_dict()[CLASSES]
    given: Tensor | None = _net(trained).unet.state_dict().get(CLASSES)
    if given is None:
        return fresh
    rows = [trained.labels.index(label) if label in trained.labels else len(trained.labels) for label in labels]
    return given[torch.tensor([*rows, len(trained.labels)])].clone()


def _net(trained: Model) -> Denoiser:
    if trained.denoiser is None:
        raise CheckpointError(f"{trained.path}: a VAE without a denoiser; give the run folder of a denoiser")
    return trained.denoiser


def _differs(trained: Model) -> ConfigError:
    return ConfigError(f"{trained.path}: its net differs from the settings: leave the model's settings out")
