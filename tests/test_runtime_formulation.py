import copy

import pytest
import torch
from torch import Tensor, nn

from jeppa.config import DenoiserConfig
from jeppa.diffusion import Denoiser, make_unet
from jeppa.runtime import (
    EXACT,
    Runtime,
    cast_weights,
    denoiser_runtime,
    prepare,
    put_norms_in_default_layout,
    vae_runtime,
)
from jeppa.vae import HeteroscedasticVAE

BF16 = Runtime("bf16", True, flat_norms=True)


@pytest.fixture(scope="module")
def vae() -> HeteroscedasticVAE:
    torch.manual_seed(0)
    return HeteroscedasticVAE("tiny").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    config = DenoiserConfig(block_out_channels=(16, 16), attention=(False, True))
    unet = make_unet(
        sample_size=8, latent_channels=4, block_out_channels=config.block_out_channels, layers_per_block=1,
        attention=config.attention, num_classes=3,
    )  # fmt: skip
    return Denoiser(unet, "v_prediction", 16).eval().requires_grad_(False)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(10.0 * torch.log10(b.square().amax() / (a - b).square().mean()))


def test_a_vae_in_bf16_gives_the_same_picture_to_40_db(vae: HeteroscedasticVAE):
    """Red when the shared variance is cast too, or a stage is left out (its types then clash)."""
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    fast = copy.deepcopy(vae)
    prepare(fast, BF16)
    posterior, exact = fast.encode(x), vae.encode(x)
    decoded, wanted = fast.decode(exact.mean), vae.decode(exact.mean)
    assert posterior.mean.dtype == decoded.mean.dtype == decoded.logvar.dtype == torch.float32
    assert fast.mean_square.dtype == torch.float32
    assert psnr(posterior.mean, exact.mean) > 40
    assert psnr(decoded.mean, wanted.mean) > 40
    assert (decoded.logvar - wanted.logvar).abs().max() < 0.05


def test_a_denoiser_in_bf16_predicts_the_same_to_40_db(denoiser: Denoiser):
    zt, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 2])
    fast = copy.deepcopy(denoiser)
    prepare(fast, BF16)
    found, wanted = fast(zt, t, labels), denoiser(zt, t, labels)
    assert found.mean.dtype == torch.float32
    assert psnr(found.mean, wanted.mean) > 40


def test_the_exact_runtime_changes_no_bit(vae: HeteroscedasticVAE):
    x = torch.rand(1, 3, 32, 32)
    same = copy.deepcopy(vae)
    prepare(same, EXACT)
    assert torch.equal(same.encode(x).mean, vae.encode(x).mean)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norms_in_the_default_layout_have_the_same_values_and_gradients(layout: torch.memory_format):
    """Red when the hook changes the answer (a missing return) or the handles undo nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 3)).to(memory_format=layout)
    x = torch.randn(2, 3, 8, 8).to(memory_format=layout)

    def answer() -> tuple[Tensor, list[Tensor]]:
        net.zero_grad()
        y = net(x)
        y.square().sum().backward()
        return y.detach(), [p.grad.clone() for p in net.parameters() if p.grad is not None]

    seen: list[bool] = []
    plain, plain_gradients = answer()
    handles = put_norms_in_default_layout(net)
    spy = net[1].register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    flat, flat_gradients = answer()
    torch.testing.assert_close(flat, plain)
    for a, b in zip(flat_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert seen == [True]
    for handle in [*handles, spy]:
        handle.remove()
    assert not net[1]._forward_hooks
    assert not net[1]._forward_pre_hooks


def test_norms_and_buffers_keep_float32():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.Linear(4, 4))
    cast_weights(net, torch.bfloat16)
    kinds = [module.weight.dtype for module in net]
    assert kinds == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]


def test_measuring_leaves_the_nets_as_they_were(
    vae: HeteroscedasticVAE, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
):
    """Red when candidates are tried on the net itself instead of a copy."""
    monkeypatch.setattr("jeppa.runtime._bf16_is_native", lambda: True)
    before = {k: v.clone() for k, v in {**vae.state_dict(), **denoiser.state_dict()}.items()}
    assert "measured" in vae_runtime(vae, "auto").reason
    assert "measured" in denoiser_runtime(denoiser, "auto").reason
    after = {**vae.state_dict(), **denoiser.state_dict()}
    assert all(torch.equal(after[k], v) and after[k].dtype == v.dtype for k, v in before.items())


def test_attention_is_the_fused_kernel_of_torch(denoiser: Denoiser):
    """On a CUDA device that is flash attention. Red with diffusers' plain processor."""
    processors = {type(module.processor).__name__ for module in denoiser.modules() if hasattr(module, "processor")}
    assert processors == {"AttnProcessor2_0"}
