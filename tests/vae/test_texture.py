"""Texture within sigma: bounded, a function of its seed alone, the same in tiles, and nothing else moves."""

from pathlib import Path

import pytest
import torch

from jeppa.config import TextureConfig
from jeppa.errors import ConfigError
from jeppa.vae import HeteroscedasticVAE, load_folder, save_folder

K = 1.5


@pytest.fixture(params=["tiny", "pyramid"])
def textured(request: pytest.FixtureRequest) -> HeteroscedasticVAE:
    """A VAE with a head that answers anything but 0."""
    from vae.test_pyramid import CONFIG

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HeteroscedasticVAE(
            "tiny" if request.param == "tiny" else CONFIG, "faithful", TextureConfig(channels=16)
        )
        assert model.texture_head is not None
        with torch.no_grad():
            model.texture_head.out.weight.normal_(std=1.0)
        return model.eval().requires_grad_(False)


def draw(model: HeteroscedasticVAE, z: torch.Tensor, k: float = K, seed: int = 0) -> torch.Tensor:
    return model.decode_texture(z, k, torch.Generator().manual_seed(seed)).mean


def test_no_pixel_leaves_the_mean_by_more_than_k_sigma(textured: HeteroscedasticVAE) -> None:
    z = torch.randn(2, 4, 6, 5)
    decoded = textured.decode(z)
    departure = (draw(textured, z) - decoded.mean).abs() / (0.5 * decoded.logvar).exp()
    assert 0.5 * K < departure.max() <= K * (1.0 + 1e-5)


def test_without_texture_the_mean_is_bit_for_bit_the_mean(textured: HeteroscedasticVAE) -> None:
    z = torch.randn(1, 4, 6, 5)
    assert draw(textured, z, 0.0).equal(textured.decode(z).mean)


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(textured: HeteroscedasticVAE) -> None:
    z = torch.randn(2, 4, 6, 5)
    pair = textured.decode_texture(z, K, [torch.Generator().manual_seed(seed) for seed in (3, 4)]).mean
    torch.testing.assert_close(draw(textured, z[1:], seed=4), pair[1:], atol=1e-4, rtol=0.0)
    assert not draw(textured, z[1:], seed=3).equal(pair[1:])


def test_tiles_have_the_texture_of_the_whole(textured: HeteroscedasticVAE) -> None:
    if textured.settings.architecture != "pyramid":
        pytest.skip("group norm sees the whole picture")
    z = torch.randn(1, 4, 48, 32)
    whole = draw(textured, z)
    textured.enable_tiling()
    assert textured.tiling is not None
    textured.enable_tiling(5 * 8 * textured.tiling.margin, 8 * textured.tiling.margin)
    assert (draw(textured, z) - whole).abs().max() < 1e-3


def test_a_folder_keeps_its_head(textured: HeteroscedasticVAE, tmp_path: Path) -> None:
    save_folder(textured, (0.0,) * 4, (1.0,) * 4, tmp_path)
    again, _ = load_folder(tmp_path)
    z = torch.randn(1, 4, 4, 4)
    assert draw(again, z).equal(draw(textured, z))


def test_a_vae_without_a_head_says_how_to_get_one() -> None:
    with pytest.raises(ConfigError, match="jeppa train texture"):
        HeteroscedasticVAE("tiny").decode_texture(torch.randn(1, 4, 2, 2))
