"""The net takes any latent size; guidance is the line through the null and the conditional prediction."""

import math

import pytest
import torch
from torch.nn.functional import pixel_unshuffle

from jeppa.diffusion import Denoiser, make_denoise, make_unet, null_label
from jeppa.errors import ConfigError

CLASSES = 3
CLOSE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def conditional():
    return tiny(CLASSES)


@pytest.fixture(scope="module")
def unconditional():
    return tiny(None)


def unet(channels=(8, 16, 16), attention=(False, False, True), num_classes: int | None = None):
    return make_unet(
        sample_size=8,
        latent_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        attention=attention,
        num_classes=num_classes,
    )


def tiny(num_classes: int | None) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(unet(num_classes=num_classes), "v_prediction", None).eval()


def latents(height: int = 8, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    zt = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(1))
    return zt, torch.tensor([10, 990])


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1), (12, 4), (9, 16)])
@torch.no_grad()
def test_latents_of_any_size_come_back_at_their_size(unconditional, size: tuple[int, int]) -> None:
    """Red when `_evaluate` does not pad, does not crop, or exchanges height and width."""
    zt, t = latents(*size)
    v = make_denoise(unconditional)(zt, t).mean
    assert v.shape == zt.shape
    assert v.isfinite().all()


@torch.no_grad()
def test_padding_repeats_the_edge_and_changes_nothing_at_multiples_of_the_stride(unconditional) -> None:
    """Red when the padding is zeros, or more than needed."""
    zt, t = latents(8, 8)
    torch.testing.assert_close(make_denoise(unconditional)(zt, t).mean, unconditional.unet(zt, t).sample, **CLOSE)
    flat = torch.full((2, 4, 5, 7), 0.3)
    whole = make_denoise(unconditional)(torch.full((2, 4, 8, 8), 0.3), t).mean
    torch.testing.assert_close(make_denoise(unconditional)(flat, t).mean, whole[..., :5, :7], **CLOSE)


@torch.no_grad()
def test_guidance_one_is_the_conditional_and_zero_the_null_prediction(conditional) -> None:
    """Red when the halves of the batch are exchanged, or the null label is not the last one."""
    zt, t = latents()
    labels = torch.tensor([0, 2])
    cond = conditional.unet(zt, t, class_labels=labels).sample
    null = conditional.unet(zt, t, class_labels=torch.full((2,), CLASSES)).sample
    assert (cond - null).abs().max() > 1e-3
    torch.testing.assert_close(make_denoise(conditional, labels)(zt, t).mean, cond, **CLOSE)
    torch.testing.assert_close(make_denoise(conditional, labels, 0.0)(zt, t).mean, null, **CLOSE)
    torch.testing.assert_close(make_denoise(conditional)(zt, t).mean, null, **CLOSE)
    torch.testing.assert_close(make_denoise(conditional, labels, 3.0)(zt, t).mean, null + 3.0 * (cond - null), **CLOSE)


@torch.no_grad()
def test_guiding_towards_no_class_changes_nothing(conditional) -> None:
    """Red when a row with the null label is guided to another one, or refused."""
    zt, t = latents()
    nulls = torch.full((2,), null_label(conditional.unet))
    guided_to_null, unguided = make_denoise(conditional, nulls, 5.0)(zt, t), make_denoise(conditional)(zt, t)
    torch.testing.assert_close(guided_to_null.mean, unguided.mean, **CLOSE)


def test_null_label_is_one_past_the_last_class(conditional) -> None:
    """Red when `make_unet` gives the embedding `num_classes` rows."""
    assert null_label(conditional.unet) == CLASSES
    assert conditional.unet.class_embedding.num_embeddings == CLASSES + 1


def test_guidance_one_evaluates_the_net_once_and_others_in_one_batch(conditional) -> None:
    """Red when guidance 1 takes the two-branch path, or guidance calls the net twice."""
    batches = []
    hook = conditional.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    zt, t = latents()
    with torch.no_grad():
        make_denoise(conditional, torch.tensor([0, 1]))(zt, t)
        make_denoise(conditional, torch.tensor([0, 1]), 2.0)(zt, t)
    hook.remove()
    assert batches == [2, 4]


def test_one_label_stands_for_a_whole_batch(conditional) -> None:
    """Red when the label goes to the first sample alone."""
    zt, t = latents()
    for guidance in (1.0, 2.0):
        one, each = torch.tensor([1]), torch.tensor([1, 1])
        expected = make_denoise(conditional, each, guidance)(zt, t).mean
        assert torch.equal(make_denoise(conditional, one, guidance)(zt, t).mean, expected)


def test_gradients_flow_to_the_net(unconditional) -> None:
    """The same callable trains. Red when `make_denoise` runs without gradients."""
    zt, t = latents()
    make_denoise(unconditional)(zt, t).mean.square().mean().backward()
    assert unconditional.unet.conv_in.weight.grad.abs().max() > 0


@pytest.mark.parametrize("channels", [(8,), (12, 20), (32, 48), (64, 128, 128)])
def test_norm_groups_divide_every_level(channels: tuple[int, ...]) -> None:
    """Red when the number of groups is fixed at 32 or taken from the first level."""
    net = unet(channels, (True,) * len(channels))
    assert all(count % net.config.norm_num_groups == 0 for count in channels)
    assert net(torch.zeros(1, 4, 4, 4), 0).sample.shape == (1, 4, 4, 4)


@pytest.mark.parametrize("channels", [(16, 16), (32, 32), (32, 64, 64)])
def test_every_level_sees_the_time(channels: tuple[int, ...]) -> None:
    """Red when a level has one channel to a group: the norm takes away what the embedding adds to the channel."""
    net = unet(channels, (False,) * len(channels))
    assert min(channels) // net.config.norm_num_groups >= 4
    zt, _ = latents()
    with torch.no_grad():
        change = (net(zt, 900).sample - net(zt, 10).sample).abs().max()
    assert change > 1e-3


def test_label_and_guidance_errors_are_one_line(conditional, unconditional) -> None:
    """Red when a check is removed, or the limits exclude the null label."""
    zt, t = latents()
    with pytest.raises(ConfigError, match="no classes, so no labels: leave them out"):
        make_denoise(unconditional, torch.tensor([0, 0]))
    for label in (-1, CLASSES + 1):
        with pytest.raises(ConfigError, match=rf"^label is {label}, .* 0 to 2 \(and 3 for no class\)"):
            make_denoise(conditional, torch.tensor([0, label]))
    for denoiser in (conditional, unconditional):
        with pytest.raises(ConfigError, match=r"guidance is 2\.0, but there are no labels"):
            make_denoise(denoiser, guidance=2.0)
    with pytest.raises(ConfigError, match="guidance is nan, but must be a finite number"):
        make_denoise(conditional, torch.tensor([0, 0]), math.nan)
    with pytest.raises(ConfigError, match="3 labels for a batch of 2: give one for each"):
        make_denoise(conditional, torch.tensor([0, 1, 2]))(zt, t)


def test_a_level_attends_on_the_way_down_and_on_the_way_up(unconditional) -> None:
    """Attention at full resolution would cost the square of the positions. Red when it is not reversed."""
    down, up = unconditional.unet.down_blocks, unconditional.unet.up_blocks
    assert [hasattr(block, "attentions") for block in down] == [False, False, True]
    assert [hasattr(block, "attentions") for block in up] == [True, False, False]


def test_bad_architectures_are_one_line() -> None:
    """Red when a check is removed."""
    with pytest.raises(ConfigError, match="attention has 2 entries for 3 levels"):
        unet(attention=(False, True))
    with pytest.raises(ConfigError, match="num_classes 0, but each must be at least 1"):
        unet(num_classes=0)
    with pytest.raises(ConfigError, match="prediction is 'x0', but must be one of v_prediction, epsilon, sample"):
        Denoiser(unet(), "x0", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
@torch.no_grad()
def test_patches_are_put_back_where_they_came_from(size: tuple[int, int]) -> None:
    """Red when mean or variance are shuffled otherwise than the latents, or the padding forgets the patch."""
    net = make_unet(
        sample_size=4, latent_channels=16, block_out_channels=(8, 16), layers_per_block=1, attention=(False, True),
        num_classes=None,
    )  # fmt: skip
    torch.manual_seed(0)
    denoiser = Denoiser(net, "v_prediction", 8, patch=2).eval()
    torch.nn.init.normal_(denoiser.head.out.weight)
    assert denoiser.stride == 4
    zt, t = latents(*size)
    found = make_denoise(denoiser)(zt, t)
    assert found.mean.shape == found.logvar.shape == zt.shape
    if size == (8, 8):
        seen = net(pixel_unshuffle(zt, 2), t).sample
        assert torch.equal(found.mean[:, 1, 3, 6], seen[:, 1 * 4 + 2, 1, 3])
        assert not torch.equal(found.logvar[..., ::2, :], found.logvar[..., 1::2, :])
