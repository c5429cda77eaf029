"""diffusers' suite for its AutoencoderKL, test for test, on the VAEs that are ours. How to run it: see `suites`.

What `jeppa export` and run folders give to diffusers is AutoencoderKL itself. Ours are the pyramid, a class of the same
interface, and `HeteroscedasticVAE`, which a pipeline takes as `vae=`. Their architectures differ, so each is made by
its own settings. What does not apply has its reason here.
"""

from typing import Any

import pytest
from suites import suite

from jeppa.config import VAEConfig
from jeppa.vae import HeteroscedasticVAE
from jeppa.vae.pyramid import PyramidAutoencoder

pytestmark = pytest.mark.filterwarnings("ignore")
kl = suite("models/autoencoders", "test_models_autoencoder_kl")
HUB = "it compares with weights from the hub, of another architecture"
READER = "jeppa's strict reader opens the folder, without variants, shards and options; its `vae` is stock and has them"
SETTINGS = "its configuration is a checked `VAEConfig`, to which no unknown entry can be added"
RECOMPUTING = "gradient checkpointing is switched on by `vae` inside it, as training does"


def left_out(reason: str) -> Any:
    """A test that is skipped, in the place of one that does not apply."""

    @pytest.mark.skip(reason)
    def test(self) -> None: ...

    return test


class OfPyramid:
    model_class = PyramidAutoencoder
    test_from_pretrained_hub = left_out(HUB)
    test_output_pretrained = left_out(HUB)

    def get_init_dict(self) -> dict[str, Any]:
        return {"block_out_channels": (12, 8, 8, 8), "layers_per_block": 1}


class TestPyramid(OfPyramid, kl.TestAutoencoderKL):
    def test_gradient_checkpointing_is_applied(self) -> None:
        """With the names of its own modules; stock asks for those of AutoencoderKL."""
        super(kl.TestAutoencoderKL, self).test_gradient_checkpointing_is_applied(expected_set={"_Encoder", "_Decoder"})


class OfHeteroscedasticVAE:
    model_class = HeteroscedasticVAE
    test_from_pretrained_hub = left_out(HUB)
    test_output_pretrained = left_out(HUB)
    test_from_save_pretrained_variant = left_out(READER)
    test_from_save_pretrained_dtype = left_out(READER)
    test_sharded_checkpoints_with_parallel_loading = left_out(READER)
    test_sharded_checkpoints = left_out(READER)
    test_sharded_checkpoints_with_variant = left_out(READER)
    test_getattr_is_correct = left_out(SETTINGS)
    test_gradient_checkpointing = left_out(RECOMPUTING)
    test_gradient_checkpointing_is_applied = left_out(RECOMPUTING)
    test_gradient_checkpointing_equivalence = left_out(RECOMPUTING)

    def get_init_dict(self) -> dict[str, Any]:
        config = VAEConfig(
            pixel_unshuffle=1, block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4,
            mid_block_attention=True, sigma_channels=8, sigma_blocks=1,
        )  # fmt: skip
        return {"config": config}


class TestHeteroscedasticVAE(OfHeteroscedasticVAE, kl.TestAutoencoderKL): ...
