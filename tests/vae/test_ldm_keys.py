"""Names of LDM and of diffusers: there and back nothing changes, and diffusers' own conversion agrees."""

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from jeppa.errors import CheckpointError
from jeppa.vae.ldm_keys import from_ldm, is_ldm, modernise, to_ldm


def make(levels: int = 4, quant: bool = True, attention: bool = True) -> AutoencoderKL:
    widths = (8, 16, 16, 16, 24, 24)[:levels]
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths,
        layers_per_block=2,
        norm_num_groups=4,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
        mid_block_add_attention=attention,
    )


@pytest.mark.parametrize(
    ("levels", "quant", "attention"), [(4, True, True), (4, False, True), (3, True, False), (6, True, True)]
)
def test_ldm_names_and_back_are_the_same_tensors(levels: int, quant: bool, attention: bool) -> None:
    state = make(levels, quant, attention).state_dict()
    renamed = to_ldm(state)
    assert is_ldm(renamed)
    assert not is_ldm(state)
    assert len(renamed) == len(state)
    again = from_ldm(renamed)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_diffusers_own_conversion_reads_the_ldm_names_alike(prefix: str) -> None:
    net = make()
    beside = (
        {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)} if prefix else {"loss.logvar": torch.zeros(1)}
    )
    ldm = {f"{prefix}{name}": value for name, value in to_ldm(net.state_dict()).items()} | beside
    peer = convert_ldm_vae_checkpoint(dict(ldm), net.config)
    ours = from_ldm(ldm)
    assert ours.keys() == peer.keys()
    assert all(torch.equal(ours[name], peer[name]) for name in peer)


def test_attention_of_old_diffusers_is_read() -> None:
    state = make().state_dict()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in state.items():
        for new, before in names.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        old[name] = value
    assert old.keys() != state.keys()
    assert modernise(old).keys() == state.keys()
    assert to_ldm(old).keys() == to_ldm(state).keys()


def test_a_name_of_no_vae_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"down_blocks\.0\.attentions"):
        to_ldm({"down_blocks.0.attentions.0.to_q.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"encoder\.mid\.strange"):
        from_ldm({"encoder.mid.strange.weight": torch.zeros(1)})
