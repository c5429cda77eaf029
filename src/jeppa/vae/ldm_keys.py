"""Names of an AutoencoderKL's tensors in diffusers and in the code of latent diffusion (LDM), which ComfyUI uses too.

Both describe the same net; only names, the order of the decoder's levels and the shape of attention weights differ.
LDM counts levels from the finest in encoder and decoder alike and writes attention as 1x1 convolutions, `[C,C,1,1]`;
diffusers counts the decoder's levels from the coarsest and writes linear maps, `[C,C]`. The values are never changed.

Source of the names: Rombach et al., arXiv 2112.10752, `ldm/modules/diffusionmodules/model.py` in their repository, and
`convert_ldm_vae_checkpoint` in diffusers, which a test compares with.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from jeppa.errors import CheckpointError

PREFIXES = ("first_stage_model.", "vae.", "")
"""What stands before the names: in a whole checkpoint of Stable Diffusion or SD3, in ComfyUI's, in a VAE's own file."""

_INNER = {"conv_shortcut": "nin_shortcut"}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names that diffusers itself used before version 0.17."""

_SIDES = r"(?P<side>encoder|decoder)\."
_DIFFUSERS_BLOCK = re.compile(_SIDES + r"(?:down|up)_blocks\.(?P<level>\d+)\.resnets\.(?P<block>\d+)\.(?P<rest>.+)")
_DIFFUSERS_SCALE = re.compile(_SIDES + r"(?:down|up)_blocks\.(?P<level>\d+)\.(?:down|up)samplers\.0\.(?P<rest>.+)")
_DIFFUSERS_MID = re.compile(_SIDES + r"mid_block\.resnets\.(?P<block>\d+)\.(?P<rest>.+)")
_DIFFUSERS_ATTENTION = re.compile(_SIDES + r"mid_block\.attentions\.0\.(?P<layer>.+)\.(?P<rest>weight|bias)")
_LDM_BLOCK = re.compile(_SIDES + r"(?:down|up)\.(?P<level>\d+)\.block\.(?P<block>\d+)\.(?P<rest>.+)")
_LDM_SCALE = re.compile(_SIDES + r"(?:down|up)\.(?P<level>\d+)\.(?:down|up)sample\.(?P<rest>.+)")
_LDM_MID = re.compile(_SIDES + r"mid\.block_(?P<block>\d+)\.(?P<rest>.+)")
_LDM_ATTENTION = re.compile(_SIDES + r"mid\.attn_1\.(?P<layer>.+)\.(?P<rest>weight|bias)")


def to_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a diffusers AutoencoderKL under their LDM names, without a prefix.

    Raises:
        CheckpointError: a name that no AutoencoderKL has.
    """
    levels = count_levels(state)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        target = _to_ldm_name(_modern(name), levels)
        renamed[target] = tensor[..., None, None] if _is_attention_matrix(target, tensor, 2) else tensor
    return renamed


def from_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an LDM file under their names in a diffusers AutoencoderKL.

    Only what stands under the first prefix in `PREFIXES` that holds an encoder or a decoder is taken, so a whole
    checkpoint of Stable Diffusion gives its VAE.

    Raises:
        CheckpointError: a name that no VAE of LDM has.
    """
    own = strip_prefix(state)
    levels = count_levels(own)
    renamed: dict[str, Tensor] = {}
    for name, tensor in own.items():
        target = _from_ldm_name(name, levels)
        renamed[target] = tensor[..., 0, 0] if _is_attention_matrix(name, tensor, 4) else tensor
    return renamed


def modernise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a diffusers AutoencoderKL with attention as diffusers names and shapes it today."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        target = _modern(name)
        convolution = ".attentions." in target and tensor.ndim == 4
        renamed[target] = tensor[..., 0, 0] if convolution else tensor
    return renamed


def strip_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the VAE in a file, without the prefix of their names, see `own_names`."""
    return {own: state[name] for name, own in own_names(state).items()}


def own_names(names: Iterable[str]) -> dict[str, str]:
    """Names of a file's tensors that belong to its VAE, each with what is left of it without the prefix.

    The prefix is the first in `PREFIXES` that holds an encoder or a decoder. A VAE's own file may have its training's
    loss and averages beside the net (`loss.`, `model_ema.`); they are left out.
    """
    names = list(names)
    for prefix in PREFIXES:
        if any(name.startswith((f"{prefix}encoder.", f"{prefix}decoder.")) for name in names):
            own = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            return {name: rest for name, rest in own.items() if not rest.startswith(("loss.", "model_ema."))}
    return {name: name for name in names}


def is_ldm(names: Mapping[str, Tensor]) -> bool:
    """Whether names, without a prefix, are those of LDM; they have a middle `mid.`, where diffusers has `mid_block.`"""
    return any(name.startswith(("encoder.mid.", "decoder.mid.")) for name in names)


def count_levels(names: Mapping[str, Tensor]) -> int:
    """Levels of resolution of a VAE, from either kind of names, without a prefix; 0 where there are none."""
    found = (re.match(r"(?:encoder|decoder)\.(?:down|up)(?:_blocks)?\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _to_ldm_name(name: str, levels: int) -> str:
    if match := _DIFFUSERS_BLOCK.fullmatch(name):
        return f"{_ldm_level(match, levels)}.block.{match['block']}.{_swap(match['rest'], _INNER)}"
    if match := _DIFFUSERS_SCALE.fullmatch(name):
        return f"{_ldm_level(match, levels)}.{_way(match)}sample.{match['rest']}"
    if match := _DIFFUSERS_MID.fullmatch(name):
        return f"{match['side']}.mid.block_{int(match['block']) + 1}.{_swap(match['rest'], _INNER)}"
    if match := _DIFFUSERS_ATTENTION.fullmatch(name):
        if match["layer"] in _ATTENTION:
            return f"{match['side']}.mid.attn_1.{_ATTENTION[match['layer']]}.{match['rest']}"
    elif _is_plain(name, "conv_norm_out"):
        return name.replace("conv_norm_out", "norm_out")
    raise CheckpointError(f"{name!r:.80}: no tensor of an AutoencoderKL has this name; it has no LDM name either")


def _from_ldm_name(name: str, levels: int) -> str:
    back = {new: old for old, new in _INNER.items()}
    if match := _LDM_BLOCK.fullmatch(name):
        return f"{_diffusers_level(match, levels)}.resnets.{match['block']}.{_swap(match['rest'], back)}"
    if match := _LDM_SCALE.fullmatch(name):
        return f"{_diffusers_level(match, levels)}.{_way(match)}samplers.0.{match['rest']}"
    if match := _LDM_MID.fullmatch(name):
        return f"{match['side']}.mid_block.resnets.{int(match['block']) - 1}.{_swap(match['rest'], back)}"
    if match := _LDM_ATTENTION.fullmatch(name):
        layer = next((old for old, new in _ATTENTION.items() if new == match["layer"]), None)
        if layer is not None:
            return f"{match['side']}.mid_block.attentions.0.{layer}.{match['rest']}"
    elif _is_plain(name, "norm_out"):
        return name.replace("norm_out", "conv_norm_out")
    raise CheckpointError(f"{name!r:.80}: no tensor of a VAE of latent diffusion has this name; give a VAE's file")


def _is_plain(name: str, norm: str) -> bool:
    """Whether the name has no level and no middle: in- and outgoing convolutions, the norm before, quantisation."""
    return (
        re.fullmatch(rf"((encoder|decoder)\.(conv_in|conv_out|{norm})|(post_)?quant_conv)\.(weight|bias)", name)
        is not None
    )


def _modern(name: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return name


def _way(match: re.Match[str]) -> str:
    return "down" if match["side"] == "encoder" else "up"


def _ldm_level(match: re.Match[str], levels: int) -> str:
    return f"{match['side']}.{_way(match)}.{_mirror(match, levels)}"


def _diffusers_level(match: re.Match[str], levels: int) -> str:
    return f"{match['side']}.{_way(match)}_blocks.{_mirror(match, levels)}"


def _mirror(match: re.Match[str], levels: int) -> int:
    """The level in the other kind of names; the decoder's are counted from the other end."""
    level = int(match["level"])
    return level if match["side"] == "encoder" else levels - 1 - level


def _swap(rest: str, names: Mapping[str, str]) -> str:
    layer, _, kind = rest.partition(".")
    return f"{names.get(layer, layer)}.{kind}"


def _is_attention_matrix(ldm_name: str, tensor: Tensor, dims: int) -> bool:
    return ".attn_1." in ldm_name and tensor.ndim == dims
