import pytest
import torch

from jeppa.vae import HeteroscedasticVAE
from jeppa.vae.codec import LatentCodec, LatentStats, measure


def test_standardised_latents_have_zero_mean_and_unit_variance():
    """Red when the posterior's own variance is left out, or the square of the mean is not subtracted."""
    torch.manual_seed(0)
    vae = HeteroscedasticVAE("tiny")
    images = torch.rand(32, 3, 32, 32) * 2.0 - 1.0
    codec = LatentCodec(vae, measure(vae, images.split(8)))
    draws = torch.cat([codec.encode(images).sample(torch.Generator().manual_seed(seed)) for seed in range(20)])
    torch.testing.assert_close(draws.mean((0, 2, 3)), torch.zeros(4), atol=0.02, rtol=0.0)
    torch.testing.assert_close(draws.std((0, 2, 3)), torch.ones(4), atol=0.02, rtol=0.0)


def test_raw_inverts_standardise():
    codec = LatentCodec(HeteroscedasticVAE("tiny"), LatentStats(shift=(1.0, 2.0, 3.0, 4.0), scale=(0.1, 1.0, 2.0, 9.0)))
    z = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(codec.raw(codec.standardise(z)), z)


def test_statistics_need_images_and_positive_scales():
    with pytest.raises(ValueError, match="no images"):
        measure(HeteroscedasticVAE("tiny"), [])
    with pytest.raises(ValueError, match="every scale above 0"):
        LatentStats(shift=(0.0,), scale=(0.0,))
