"""One module of an exported folder: a sub-folder with diffusers' `config.json` and weights, checked before it is used.

diffusers opens nothing here: the model is built from our own description, and a part's configuration is only checked,
so that it names no code for those who open the folder with diffusers.
"""

from pathlib import Path

import torch
from torch import Tensor

from jeppa.errors import CheckpointError
from jeppa.strict_json import read_json
from jeppa.tensors import read_tensors

NOT_OURS = (".py", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_part(outline: torch.nn.Module, class_name: str, folder: Path) -> dict[str, Tensor]:
    """Weights of one module, of the names and shapes that `outline` (on the meta device, so without memory) has.

    Raises:
        CheckpointError: a file is missing, damaged or hostile, or of another class or architecture.
    """
    config = read_json(folder / "config.json")
    named = config.get("_class_name")
    if named != class_name or "auto_map" in config:
        raise CheckpointError(
            f"{folder / 'config.json'}: names {'code' if 'auto_map' in config else f'class {named!r:.80}'}, but must "
            f"be an {class_name} and name no code; do not use this folder"
        )
    stranger = next((path for path in sorted(folder.iterdir()) if path.name.endswith(NOT_OURS)), None)
    if stranger is not None:
        raise CheckpointError(f"{stranger}: code, pickles and split weights have no place here; do not use this folder")
    return read_tensors(folder / "diffusion_pytorch_model.safetensors", outline.state_dict())
