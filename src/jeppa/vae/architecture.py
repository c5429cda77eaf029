"""The architecture of a VAE of others, from the entries of its `config.json` or the names and shapes of its tensors.

The entries keep diffusers' names; `VAEConfig` has ours. What a `VAEConfig` cannot say is refused in one line.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from jeppa.config import VAEConfig, parse
from jeppa.errors import CheckpointError, ConfigError
from jeppa.files import parse_json
from jeppa.machine import note
from jeppa.vae.codec import FACTOR_KEYS
from jeppa.vae.pyramid import PyramidAutoencoder

WANTED = (
    "a VAE is an AutoencoderKL or AutoencoderTiny of diffusers, a pipeline folder with vae/ in it, or one .safetensors "
    "file of such a VAE with diffusers' or LDM's names"
)
SIGMA_CHANNELS = 64
"""Width of the sigma head that such a VAE gets."""
GROUPS = 32
"""Groups of group norm in every AutoencoderKL that is known to be around; shapes do not show them."""
KNOWN_FACTORS = {(4, True): (0.18215, None), (16, False): (0.3611, 0.1159)}
"""Scaling and shift factor of Stable Diffusion 1 and 2 and of FLUX, by latent channels and whether there is a
quant_conv; a file of LDM does not have them."""
Entries = dict[str, Any]
CLASSES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny, "PyramidAutoencoder": PyramidAutoencoder}
"""The classes that are read, by the name that a `config.json` gives them."""


def read_entries(config: Path, entries: Entries) -> VAEConfig:
    """The architecture that a `config.json` describes."""
    name = entries.get("_class_name")
    reader = _READERS.get(str(name))
    if reader is None or "auto_map" in entries:
        found = "names code" if "auto_map" in entries else f"is of class {name!r:.80}"
        raise CheckpointError(f"{config}: {found}, but {WANTED}")
    try:
        values = reader(entries)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{config}: {error}; restore the file") from None
    return parse(VAEConfig, {**values, "sigma_channels": SIGMA_CHANNELS}, str(config))


def complete(entries: Entries) -> Entries:
    """The entries of a `config.json`, completed with the defaults of its class, as diffusers does it."""
    parameters = inspect.signature(CLASSES[entries["_class_name"]].__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {**defaults, **entries}


def infer(path: Path, canonical: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[VAEConfig, Entries]:
    """Architecture and entries from names, shapes and metadata, where there is no `config.json`."""
    try:
        if "encoder.layers.0.weight" in canonical:
            entries: Entries = _infer_tiny(canonical)
        else:
            entries = _infer_kl(canonical)
    except (KeyError, IndexError):
        raise CheckpointError(f"{path}: lacks tensors that every VAE has, such as conv_in; {WANTED}") from None
    settings = read_entries(path, entries)
    entries |= {key: _number(path, key, metadata[key]) for key in FACTOR_KEYS if key in metadata}
    if "scaling_factor" not in entries and settings.architecture == "kl":
        known = KNOWN_FACTORS.get((settings.latent_channels, settings.quant_conv), (1.0, None))
        entries |= dict(zip(FACTOR_KEYS[:2], known, strict=True))
        note(
            f"{path}: neither the file nor a config.json beside it says the factors of its latents; taken as "
            f"scaling_factor {known[0]} and shift_factor {known[1]}; put its config.json beside it if they are others"
        )
    return settings, complete(entries)


def _number(path: Path, key: str, text: str) -> Any:
    """A number, or one for each channel, as JSON in the metadata of a file."""
    value = parse_json(f'{{"value": {text}}}'.encode(), f"{path}, {key} in its metadata")["value"]
    numbers = value if isinstance(value, list) else [0.0 if value is None else value]
    if not all(isinstance(number, int | float) for number in numbers):
        raise CheckpointError(f"{path}: {key} in its metadata is {text!r:.80}, which is no number")
    return value


def _read_kl(given: Entries) -> Entries:
    entries = complete(given)
    widths = entries["block_out_channels"]
    for key, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        other = next((kind for kind in entries[key] if kind != block), None)
        if other is not None or len(entries[key]) != len(widths):
            raise ValueError(f"{key} has {other or len(entries[key])!r:.80}, but only {block} at each level is read")
    if entries["act_fn"] not in ("silu", "swish"):
        raise ValueError(f"act_fn is {entries['act_fn']!r:.80}, but only silu is read")
    return {
        "pixel_unshuffle": _block_side(entries),
        "block_out_channels": widths,
        "layers_per_block": entries["layers_per_block"],
        "latent_channels": entries["latent_channels"],
        "norm_num_groups": entries["norm_num_groups"],
        "mid_block_attention": entries["mid_block_add_attention"],
        "quant_conv": entries["use_quant_conv"],
        "post_quant_conv": entries["use_post_quant_conv"],
    }


def _read_tiny(given: Entries) -> Entries:
    entries = complete(given)
    for key, only in (("in_channels", 3), ("out_channels", 3), ("upsampling_scaling_factor", 2)):
        if entries[key] != only:
            raise ValueError(f"{key} is {entries[key]!r:.80}, but only {only} is read")
    if entries["upsample_fn"] != "nearest":
        raise ValueError(f"upsample_fn is {entries['upsample_fn']!r:.80}, but only nearest is read")
    names = (
        "encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks", "act_fn"
    )  # fmt: skip
    return {
        "architecture": "taesd",
        "pixel_unshuffle": 1,
        "block_out_channels": entries["decoder_block_out_channels"][::-1],
        "layers_per_block": max(1, *entries["num_decoder_blocks"]),
        "latent_channels": entries["latent_channels"],
        "tiny": {name: entries[name] for name in names},
    }


def _read_pyramid(given: Entries) -> Entries:
    entries = complete(given)
    return {
        "architecture": "pyramid",
        "pixel_unshuffle": 2,
        "block_out_channels": entries["block_out_channels"][1:],
        "layers_per_block": entries["layers_per_block"],
        "latent_channels": entries["latent_channels"],
    }


_READERS = {"AutoencoderKL": _read_kl, "AutoencoderTiny": _read_tiny, "PyramidAutoencoder": _read_pyramid}


def _block_side(entries: Entries) -> int:
    """Side of the blocks of pixels that the net takes as one, from its channels: 3 are plain pixels."""
    found = entries["in_channels"], entries["out_channels"]
    for side in (1, 2, 4, 8):
        if found == (3 * side**2, 3 * side**2):
            return side
    raise ValueError(f"in_channels and out_channels are {found}, but a VAE of pictures has 3 of each")


def _infer_kl(canonical: Mapping[str, Tensor]) -> Entries:
    widths: list[int] = []
    while (first := f"encoder.down_blocks.{len(widths)}.resnets.0.conv1.weight") in canonical:
        widths.append(len(canonical[first]))
    layers = 0
    while f"encoder.down_blocks.0.resnets.{layers}.conv1.weight" in canonical:
        layers += 1
    odd = next((width for width in widths if width % GROUPS), None)
    if odd is not None:
        raise ConfigError(
            f"a level has {odd} channels, which are no {GROUPS} equal groups, and names and shapes do not show how "
            "many there are: put the VAE's config.json beside the file"
        )
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": canonical["encoder.conv_in.weight"].shape[1],
        "out_channels": len(canonical["decoder.conv_out.weight"]),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": canonical["decoder.conv_in.weight"].shape[1],
        "norm_num_groups": GROUPS,
        "use_quant_conv": "quant_conv.weight" in canonical,
        "use_post_quant_conv": "post_quant_conv.weight" in canonical,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in canonical,
    }


def _infer_tiny(canonical: Mapping[str, Tensor]) -> Entries:
    """That of TAESD itself, but for its width and the channels of its latent."""
    width, latent_channels = canonical["decoder.layers.0.weight"].shape[:2]
    return {
        "_class_name": "AutoencoderTiny",
        "latent_channels": latent_channels,
        "encoder_block_out_channels": [width] * 4,
        "decoder_block_out_channels": [width] * 4,
    }
