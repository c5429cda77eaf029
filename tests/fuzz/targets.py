"""What is fuzzed: the four readers of files that a stranger may have made. Each takes bytes and may raise JeppaError.

Any other exception is a finding, and so are a hang, a crash, and memory above the limit.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from jeppa.checkpoint import newest_checkpoint
from jeppa.config import DiffusionRun, VAERun, load_run, parse
from jeppa.data import open_source
from jeppa.data.decode import read_pixels
from jeppa.errors import JeppaError
from jeppa.files import parse_json, parse_yaml
from jeppa.tensors import read_tensors
from jeppa.vae import HeteroscedasticVAE
from jeppa.vae.codec import Description

MAX_PIXELS = 1_000_000
EXPECTED = {"weight": torch.zeros(2, 3), "steps": torch.zeros((), dtype=torch.int64)}
SEPARATOR = b"\0\0"

_folder = Path(tempfile.mkdtemp(prefix="jeppa-fuzz-"))


def images(data: bytes) -> None:
    """An image file."""
    read_pixels(data, "fuzz", MAX_PIXELS)


def configs(data: bytes) -> None:
    """A run's config.yaml, and the same text as settings given to either kind of training."""
    path = _folder / "config.yaml"
    path.write_bytes(data)
    values = parse_yaml(data, "fuzz")
    for attempt in (
        lambda: load_run(path),
        lambda: parse(VAERun, values, "f"),
        lambda: parse(DiffusionRun, values, "f"),
    ):
        _refusable(attempt)


def checkpoints(data: bytes) -> None:
    """By the first byte: a tensor file; the description of an exported model; a manifest and a state."""
    kind, content = data[:1], data[1:]
    if kind == b"t":
        path = _folder / "model.safetensors"
        path.write_bytes(content)
        _refusable(lambda: read_tensors(path))
        read_tensors(path, EXPECTED)
    elif kind == b"m":
        about = parse(Description, parse_json(content, "fuzz"), "fuzz")
        with torch.device("meta"):
            HeteroscedasticVAE(about.config, about.likelihood)
    else:
        step = _folder / "run" / "checkpoints" / "step-000000001"
        step.mkdir(parents=True, exist_ok=True)
        manifest, _, state = content.partition(SEPARATOR)
        (step / "manifest.json").write_bytes(manifest)
        (step / "state.json").write_bytes(state)
        checkpoint, _ = newest_checkpoint(_folder / "run")
        if checkpoint is not None:
            checkpoint.state()


def archives(data: bytes) -> None:
    """A zip of images, listed, checked and decoded."""
    path = _folder / "images.zip"
    path.write_bytes(data)
    open_source(path, max_unreadable=1.0)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "images": images,
    "checkpoints": checkpoints,
    "configs": configs,
    "archives": archives,
}


def run_one(target: str, data: bytes) -> bool:
    """Whether the target took the input; False where it refused it as it should."""
    return _refusable(lambda: TARGETS[target](data))


def _refusable(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except JeppaError as error:
        if "\n" in str(error):
            raise ValueError("the error has more than one line") from error
        return False
    return True
