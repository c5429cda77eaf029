"""What a GPU would see, without one: tensors without data on a second device, which refuse to meet those of the first.

`meta` stands for the second device. Values are not computed, so only devices, shapes and types are seen.
"""

import contextlib
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from jeppa import distributions, runtime
from jeppa.config import DataConfig, DiffusionRun, Likelihood, VAERun
from jeppa.diffusion import Denoiser, make_unet
from jeppa.runtime import Runtime, choose_runtime, compile_blocks
from jeppa.train import DiffusionObjective, VAEObjective
from jeppa.vae import HeteroscedasticVAE
from jeppa.vae.codec import LatentCodec, LatentStats

AWAY = "meta"
STATS = LatentStats(shift=(0.0,) * 4, scale=(1.0,) * 4)
MOVED = np.array([[3, 5]] * 2)  # read as numbers, which tensors without data have not
LIKELIHOODS: tuple[Likelihood, ...] = ("faithful", "shared", "student-t", "band-t-faithful")


@contextlib.contextmanager
def two_devices() -> Iterator[None]:
    """Nets are made before: what they keep for other tests must have values."""
    unknown = patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    distributions._matrix.cache_clear()
    try:
        with unknown, FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        distributions._matrix.cache_clear()


def sent_away(net: nn.Module) -> nn.Module:
    """All that `net.to(device)` would move, and nothing else."""
    for module in net.modules():
        for kept in (module._parameters, module._buffers):
            for name, value in kept.items():
                if value is not None:
                    empty = torch.empty(value.shape, dtype=value.dtype, device=AWAY)
                    kept[name] = nn.Parameter(empty, value.requires_grad) if kept is module._parameters else empty
    return net


def devices(*tensors: Tensor) -> set[str]:
    return {tensor.device.type for tensor in tensors}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_vae_on_another_device_takes_pictures_and_answers_here(likelihood: Likelihood):
    """Red when encode or decode leaves its answer there: tiles and files are made here."""
    codec = LatentCodec(HeteroscedasticVAE("tiny", likelihood), STATS)
    with two_devices():
        vae = sent_away(codec.vae)
        x = torch.zeros(2, 3, 64, 64)
        posterior = codec.encode(x)
        decoded = codec.decode(posterior.mean)
        nll = decoded.element_nll(x)
    assert devices(posterior.mean, posterior.logvar, decoded.mean, decoded.logvar, nll) == {"cpu"}
    assert devices(*vae.parameters()) == {AWAY}


@pytest.mark.parametrize("head", [None, 16])
def test_a_denoiser_on_another_device_answers_here(head: int | None):
    """Red when latents, timesteps or labels are not taken along."""
    unet = make_unet(
        sample_size=8, latent_channels=4, block_out_channels=(16, 16), layers_per_block=1, attention=(False, True),
        num_classes=3,
    )  # fmt: skip
    net = Denoiser(unet, "v_prediction", head).eval().requires_grad_(False)
    with two_devices():
        found = sent_away(net)(torch.zeros(2, 4, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 2]))
    assert devices(found.mean) == {"cpu"}
    assert head is None or devices(found.logvar) == {"cpu"}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_loss_of_a_vae_is_taken_where_the_batch_is(likelihood: Likelihood):
    """Red when a part of the loss (LPIPS, a transform) keeps its arrays on the CPU."""
    data = DataConfig(resolution=64)
    config = VAERun(preset="tiny", likelihood=likelihood, perceptual=0.5, kl_warmup_steps=0, data=data)
    objective = VAEObjective(config).eval()
    with two_devices():
        sent_away(objective)
        batch = {"x": torch.zeros(2, 3, 64, 64, device=AWAY), "noise": torch.zeros(2, 4, 8, 8, device=AWAY)}
        terms = objective({**batch, "moved": MOVED})
        terms["loss"].mean().backward()
    assert devices(*terms.values()) == {AWAY}
    assert all(devices(p.grad) == {AWAY} for p in objective.parameters() if p.grad is not None)


def test_the_loss_of_a_denoiser_is_taken_where_the_batch_is():
    """Red when the values of the schedule are not taken along."""
    codec = LatentCodec(HeteroscedasticVAE("tiny"), STATS)
    objective = DiffusionObjective(DiffusionRun(vae="unused", data=DataConfig(resolution=64)), codec)
    with two_devices():
        sent_away(objective.model)
        latents = {name: torch.zeros(2, 4, 8, 8, device=AWAY) for name in ("z0", "noise")}
        terms = objective({**latents, "t": torch.zeros(2, dtype=torch.long, device=AWAY)})
        terms["loss"].mean().backward()
    assert devices(*terms.values()) == {AWAY}


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_cuda_device_gets_bf16_where_it_has_it(bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    chosen = runtime._on_accelerator("cuda")
    assert (chosen.precision, chosen.channels_last) == (precision, True)


def test_another_device_is_not_measured():
    chosen = choose_runtime("auto", nn.Linear(2, 2, device=AWAY), "a step", lambda _: pytest.fail("measured"))
    assert chosen == Runtime("bf16", True, reason="meta device")


def test_compiled_blocks_give_the_same_answers_and_gradients():
    """Red when a block that is hooked or replaced from outside is compiled with what was there at first."""
    torch.manual_seed(0)
    unet = make_unet(
        sample_size=8, latent_channels=4, block_out_channels=(16, 16), layers_per_block=1, attention=(False, True),
        num_classes=None,
    )  # fmt: skip
    nets = HeteroscedasticVAE("tiny"), Denoiser(unet, "v_prediction", 16)

    def answers(side: int) -> list[Tensor]:
        vae, denoiser = nets
        x = torch.linspace(-1.0, 1.0, 3 * side**2).reshape(1, 3, side, side)
        posterior = vae.encode(x)
        decoded, predicted = vae.decode(posterior.mean), denoiser(posterior.mean, torch.tensor([5]))
        parts = [decoded.mean, decoded.logvar, predicted.mean, predicted.logvar]
        sum(part.square().mean() for part in parts).backward()
        gradients = [p.grad for net in nets for p in net.parameters() if p.grad is not None]
        for net in nets:
            net.zero_grad(set_to_none=True)
        return [*(part.detach() for part in parts), *gradients]

    names = [list(net.state_dict()) for net in nets]
    plain = {side: answers(side) for side in (32, 64)}
    for net in nets:
        compile_blocks(net, backend="aot_eager")
    try:
        for side in (32, 64, 32):
            torch.testing.assert_close(answers(side), plain[side], rtol=1e-4, atol=1e-5)
    finally:
        torch._dynamo.reset()
    assert [list(net.state_dict()) for net in nets] == names
