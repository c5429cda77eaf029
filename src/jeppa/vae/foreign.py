"""Open the VAE that people have: a folder or file of diffusers, or a file with the names of LDM.

It may be the folder of an AutoencoderKL or AutoencoderTiny, the folder of a pipeline with `vae/` in it, or a single
`.safetensors` file: with diffusers' names, or with those of LDM, which ComfyUI, A1111 and kohya use (a whole checkpoint
gives its VAE). Weights may be float16 or bfloat16 or split into several files. The architecture is read from
`config.json`, in the folder or beside the file, or else from names and shapes.

Such files come from strangers. diffusers opens nothing here: the net is built from the checked description, every name
and shape is compared with it before a value is read, and pickles are never opened. All entries of `config.json` are
kept as they are (`LatentStats.kept`), so that a pipeline which was trained with them finds them again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jeppa.config import Likelihood, VAEConfig, parse
from jeppa.errors import CheckpointError
from jeppa.files import read_json
from jeppa.tensors import read_outlines, read_tensors
from jeppa.vae.architecture import CLASSES, WANTED, Entries, complete, infer, read_entries
from jeppa.vae.codec import NOT_A_FOLDER, LatentStats, load_folder, register_statistics, statistics_of
from jeppa.vae.ldm_keys import from_ldm, is_ldm, modernise, own_names, strip_prefix
from jeppa.vae.model import HeteroscedasticVAE
from jeppa.vae.nets import build_net

LIKELIHOOD: Likelihood = "fixed"
"""That of a VAE without a sigma head: one variance, which nobody has measured."""
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
INDEX = ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.fp16.json")


@dataclass(frozen=True)
class FoundVAE:
    """A VAE that was found, before its weights are read.

    Args:
        path: what the user gave.
        settings: the architecture.
        entries: those of its `config.json`, completed with the defaults of its class.
        weights: file of each tensor, by its name in the file.
    """

    path: Path
    settings: VAEConfig
    entries: Entries
    weights: dict[str, Path]


def load_vae(path: Path) -> tuple[HeteroscedasticVAE, LatentStats]:
    """Open an exported folder of ours or a VAE of others: the model in evaluation mode, and its latent statistics.

    A VAE of others comes without a sigma head, under the likelihood `fixed`.

    Raises:
        CheckpointError: there is no VAE, or it is damaged, hostile, incomplete or of a class that is not known.
        ConfigError: its description is out of range.
    """
    if (path / "model.json").is_file():
        model, entries = load_folder(path)
        stats = parse(LatentStats, entries, f"{path}, latent statistics")
    else:
        found = find_foreign(path)
        model = HeteroscedasticVAE(found.settings, LIKELIHOOD).eval()
        model.vae.load_state_dict(_read_weights(found))
        model.vae.register_to_config(**found.entries)
        stats = statistics_of(model.vae)
    register_statistics(model.vae, stats)
    return model, stats


def describe_vae(path: Path) -> VAEConfig:
    """The architecture of a VAE that `load_vae` opens, without reading its weights; errors as there."""
    if (path / "model.json").is_file():
        return parse(VAEConfig, read_json(path / "model.json").get("config"), f"{path / 'model.json'}, config")
    return find_foreign(path).settings


def is_foreign(path: Path) -> bool:
    """Whether `path` looks like a VAE, a pipeline or a file of weights of others."""
    if path.is_file():
        return path.suffix == ".safetensors"
    markers = ("config.json", "model_index.json", "vae/config.json", *WEIGHTS, *INDEX)
    return any((path / marker).is_file() for marker in markers)


def find_foreign(path: Path) -> FoundVAE:
    """Find description and weights of a VAE of others, and hold one to the other; errors as for `load_vae`."""
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path}: {NOT_A_FOLDER}")
        beside = path.parent / "config.json"
        entries = read_json(beside) if beside.is_file() else None
        if entries is not None and entries.get("_class_name") not in CLASSES:
            entries = None  # of something else that lies in the same folder
        return _hold_to_description(path, beside, entries, {path: None})
    folder = path if (path / "config.json").is_file() or not (path / "vae").is_dir() else path / "vae"
    if not (folder / "config.json").is_file():
        kind = "no config.json in it, and no vae/" if path.is_dir() else "no such file or folder"
        raise CheckpointError(f"{path}: {kind}; {WANTED}")
    return _hold_to_description(path, folder / "config.json", read_json(folder / "config.json"), _weight_files(folder))


def _weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The files of weights of a folder, and the names that each must hold, if it is one of several."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return {folder / name: None}
    for name in INDEX:
        if not (folder / name).is_file():
            continue
        by_tensor = read_json(folder / name).get("weight_map")
        if not isinstance(by_tensor, dict) or not all(_is_plain_file(value) for value in by_tensor.values()):
            raise CheckpointError(f"{folder / name}: its weight_map must name .safetensors files beside it; restore it")
        return {
            folder / file: {tensor for tensor, where in by_tensor.items() if where == file}
            for file in sorted(set(by_tensor.values()))
        }
    pickles = next((p.name for p in sorted(folder.glob("*")) if p.suffix in (".bin", ".ckpt", ".pt", ".pth")), None)
    found = "no weights" if pickles is None else f"{pickles}, a pickle, which is never opened because it can run code"
    raise CheckpointError(f"{folder}: has {found}; {WEIGHTS[0]} is wanted: save the VAE as safetensors")


def _is_plain_file(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")


def _hold_to_description(
    path: Path, config: Path, entries: Entries | None, files: dict[Path, set[str] | None]
) -> FoundVAE:
    outlines: dict[str, Tensor] = {}
    weights: dict[str, Path] = {}
    metadata: dict[str, str] = {}
    for file, names in files.items():
        inside, about = read_outlines(file)
        if names is not None and names != set(inside):
            differing = min(names ^ set(inside))
            raise CheckpointError(f"{file}: {differing!r:.80} is not where the index says; restore the files")
        outlines |= inside
        metadata |= about
        weights |= dict.fromkeys(inside, file)
    _refuse_other_kinds(path, outlines)
    canonical = _rename(outlines, path)
    if entries is None:
        settings, entries = infer(path, canonical, metadata)
    else:
        settings = read_entries(config, entries)
        entries = complete(entries)
    _check_names(path, canonical, settings)
    return FoundVAE(path, settings, entries, weights)


def _refuse_other_kinds(path: Path, names: Iterable[str]) -> None:
    """Say what a file is that holds no VAE at all."""
    names = list(names)
    own = own_names(names).values()
    halves = {half for half in ("encoder", "decoder") if any(name.startswith(f"{half}.") for name in own)}
    lora = any("lora" in name.lower() for name in names)
    if halves == {"encoder", "decoder"} and not lora:
        return
    if lora:
        found = "a LoRA"
    elif any("time_embed" in name or name.startswith(("model.diffusion_model.", "input_blocks.")) for name in names):
        found = "a UNet"
    elif any("double_blocks" in name or "transformer_blocks" in name for name in names):
        found = "a diffusion transformer"
    elif halves:
        found = f"nothing but the {halves.pop()} of a VAE"
    else:
        found = f"tensors such as {min(names)!r:.80}" if names else "no tensors"
    raise CheckpointError(f"{path}: holds {found}; {WANTED}")


def _rename(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors under the names that diffusers gives them today."""
    own = strip_prefix(tensors)
    try:
        return from_ldm(own) if is_ldm(own) else modernise(own)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _check_names(path: Path, canonical: Mapping[str, Tensor], settings: VAEConfig) -> None:
    """Refuse a file that lacks tensors of its architecture, or has others or of other shapes."""
    with torch.device("meta"):
        expected = build_net(settings).state_dict()
    missing, unknown = sorted(expected.keys() - canonical.keys()), sorted(canonical.keys() - expected.keys())
    if missing:
        raise CheckpointError(
            f"{path}: lacks {len(missing)} of the {len(expected)} tensors of its architecture, {missing[0]!r:.80} "
            f"first; {WANTED}"
        )
    if unknown:
        raise CheckpointError(
            f"{path}: has {len(unknown)} tensors that its architecture does not, {unknown[0]!r:.80} first; {WANTED}"
        )
    for name, outline in canonical.items():
        if outline.shape != expected[name].shape or not outline.is_floating_point():
            raise CheckpointError(
                f"{path}: {name!r:.80} is {outline.dtype} {list(outline.shape)}, but its architecture has "
                f"{list(expected[name].shape)}; use the config.json that belongs to the file"
            )


def _read_weights(found: FoundVAE) -> dict[str, Tensor]:
    """The weights under diffusers' names, as float32; only the tensors of the VAE are read."""
    needed = own_names(found.weights)
    tensors: dict[str, Tensor] = {}
    for file in sorted({found.weights[name] for name in needed}):
        tensors |= read_tensors(file, half=True, names=needed.keys())
    return {name: tensor.float() for name, tensor in _rename(tensors, found.path).items()}
