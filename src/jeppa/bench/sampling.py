"""A DDIM step and whole generation beside diffusers' DDIMPipeline, on latents of 512x512 pictures."""

import copy
from collections.abc import Iterator

import torch
from diffusers import DDIMPipeline

from jeppa.bench.clock import Row, race
from jeppa.config import DenoiserConfig
from jeppa.diffusion import (
    DDIM,
    Denoiser,
    generators_for,
    guided,
    initial_noise,
    make_scheduler,
    make_unet,
    sample_ddim,
)
from jeppa.pipeline.speed import denoiser_runtime
from jeppa.runtime import prepare

CHANNELS = 4
SIDE = 64
BATCH = 4
STEPS = 25


def sampling_rows(alternations: int) -> Iterator[Row]:
    """With the net that `jeppa train diffusion` makes unless told otherwise, random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = DenoiserConfig()
        unet = make_unet(
            sample_size=SIDE, latent_channels=CHANNELS, block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block, attention=config.attention, num_classes=None,
        )  # fmt: skip
        plain = Denoiser(unet, "v_prediction", None).eval().requires_grad_(False)
        with_head = Denoiser(copy.deepcopy(unet), "v_prediction", config.variance_channels).eval().requires_grad_(False)
    fast = copy.deepcopy(plain)
    runtime = denoiser_runtime(fast, "auto")
    prepare(fast, runtime)
    prepare(with_head, runtime)
    schedule = make_scheduler()
    pipeline = DDIMPipeline(plain.unet, schedule)
    pipeline.set_progress_bar_config(disable=True)

    def ours(net: Denoiser, steps: int, temperature: float) -> None:
        generators = generators_for(range(BATCH))
        noise = initial_noise((CHANNELS, SIDE, SIDE), generators)
        for _ in sample_ddim(guided(net, None), noise, schedule, DDIM(steps, temperature=temperature), generators):
            pass

    def peer(steps: int) -> None:
        pipeline(BATCH, generators_for(range(BATCH)), num_inference_steps=steps, output_type="np")

    about = f"batch {BATCH}, latents of {SIDE}x{SIDE}, same net; ours {runtime}"
    yield race("ddim_step_512", lambda: ours(fast, 1, 0.0), lambda: peer(1), alternations, f"one step, {about}")
    yield race(
        "ddim_25_512", lambda: ours(fast, STEPS, 0.0), lambda: peer(STEPS), alternations, f"{STEPS} steps, {about}"
    )
    yield race(
        "ddim_25_512_learned", lambda: ours(with_head, STEPS, 1.0), lambda: peer(STEPS), alternations,
        f"{STEPS} steps with the learned variance and its head beside {STEPS} without, {about}",
    )  # fmt: skip
