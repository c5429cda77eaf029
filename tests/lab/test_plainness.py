"""What plain pictures show: a lattice, a wrong colour, a dark border."""

import math

import pytest
import torch
from torch import nn

from jeppa.config import PRESETS
from jeppa.lab.plainness import border_error_ratio, lattice_energy, measure_plainness
from jeppa.vae import HeteroscedasticVAE


class Painted(nn.Module):
    """In place of a VAE: half of the picture, plus a fixed picture."""

    settings = PRESETS["tiny"]

    def __init__(self, added: torch.Tensor) -> None:
        super().__init__()
        self.added = added

    def reconstruct(self, x: torch.Tensor) -> "Painted":
        self.mean = 0.5 * x + self.added
        return self


def test_the_energy_of_a_lattice_is_that_of_its_cell_alone():
    """Red when the constant part, or a period that the stride does not have, is counted."""
    across = torch.arange(64.0)
    lattice = torch.cos(2.0 * math.pi * across / 8.0).expand(1, 3, 64, 64)
    other = torch.cos(2.0 * math.pi * across / 64.0).expand(1, 3, 64, 64)
    assert lattice_energy(lattice + other + 0.7, 8).item() == pytest.approx(0.5, rel=1e-5)
    assert lattice_energy(other + 0.7, 8).item() == pytest.approx(0.0, abs=1e-4)


def test_a_lattice_and_a_shift_of_colour_are_told_apart():
    lattice = 0.02 * torch.cos(2.0 * math.pi * torch.arange(128.0) / 8.0).expand(1, 3, 128, 128)
    found = measure_plainness(Painted(lattice))  # type: ignore[arg-type]
    assert found.lattice_levels == pytest.approx(0.02 * 127.5 / math.sqrt(2.0), rel=1e-3)
    assert found.lattice_share == pytest.approx(0.02**2 / 2.0, rel=1e-3)
    assert found.gradient_lattice_share > found.lattice_share
    assert found.colour_levels == pytest.approx(0.5 * 127.5, rel=1e-3)


def test_a_border_that_is_twice_as_wrong_has_the_ratio_two():
    x, recon = torch.zeros(1, 3, 40, 48), torch.full((1, 3, 40, 48), 0.2)
    recon[:, :, 8:-8, 8:-8] = 0.1
    assert border_error_ratio(x, recon).item() == pytest.approx(2.0, rel=1e-5)
    assert border_error_ratio(x, x).isnan().all()
    assert border_error_ratio(x[..., :16], recon[..., :16]).isnan().all()


def test_a_new_vae_is_measured_at_its_own_stride():
    """Red when the gradients or the constants are not what the VAE was given."""
    found = measure_plainness(HeteroscedasticVAE("tiny").eval(), side=32)
    assert all(math.isfinite(value) and value >= 0.0 for value in vars(found).values())
