"""The decoder that costs next to nothing: `jeppa.pipeline.rough`."""

from types import SimpleNamespace

import torch
from torch.nn import functional as F

from jeppa.distributions import DiagonalGaussian
from jeppa.pipeline.rough import RoughDecoder, fit_rough_decoder


def affine(seed: int = 0) -> RoughDecoder:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(192, 4, 3, 3, generator=generator) * 0.02
    return RoughDecoder(weight, torch.zeros(192), torch.zeros(1, 4, 3, 3), torch.full((1,), -50.0))


def test_an_affine_decoder_is_found_exactly():
    """Red when a place, a channel or a pixel of the cell goes to a wrong place."""
    truth = affine()
    logvar = torch.full((1,), -4.0)

    def encode(x):
        noise = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(int(x.sum().abs() * 100)))
        return DiagonalGaussian(noise, noise)

    def decode(z0):
        mean = truth.mean(z0)
        return DiagonalGaussian(mean, logvar.expand_as(mean))

    vae = SimpleNamespace(parameters=lambda: iter([torch.zeros(1)]))
    found = fit_rough_decoder(SimpleNamespace(vae=vae, encode=encode, decode=decode))  # type: ignore[arg-type]
    z0 = 0.5 * torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(9))
    assert torch.allclose(found.mean(z0), truth.mean(z0), atol=1e-2)
    assert torch.allclose(found.sigma(z0, torch.zeros_like(z0)), torch.tensor(0.135335), atol=1e-3)


def test_a_variance_goes_through_as_it_does_in_a_simulation():
    rough = affine(1)
    generator = torch.Generator().manual_seed(2)
    z0, variance = torch.zeros(1, 4, 3, 3), torch.rand(1, 4, 3, 3, generator=generator)
    drawn = z0 + variance.sqrt() * torch.randn(4000, 4, 3, 3, generator=generator)
    # Only the place in the middle has all its neighbours once; at the border they are repeated, hence correlated.
    simulated = F.avg_pool2d(rough.mean(drawn).var(0).mean(0)[None, None], 8).sqrt()[0, 0, 1, 1]
    assert torch.isclose(rough.sigma(z0, variance)[0, 0, 1, 1], simulated, rtol=0.03)
