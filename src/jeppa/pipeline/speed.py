"""Measures, once for each machine, how the nets of a model run fastest."""

import copy
import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from jeppa.config import Precision
from jeppa.diffusion import Denoiser
from jeppa.runtime import Runtime, choose_runtime, prepare
from jeppa.vae import FACTOR, HeteroscedasticVAE

Net = TypeVar("Net", bound=nn.Module)

SIDE = 16
"""Of the latents that are measured on: a picture of 128 pixels."""
BATCH = 4


def vae_runtime(vae: HeteroscedasticVAE, precision: Precision) -> Runtime:
    """How to encode and decode."""
    x = torch.zeros(1, 3, SIDE * FACTOR, SIDE * FACTOR)
    return choose_runtime(
        precision, vae, "encode and decode", _on_copy(vae, lambda net: net.decode(net.encode(x).mean))
    )


def denoiser_runtime(denoiser: Denoiser, precision: Precision) -> Runtime:
    """How to take a step."""
    unet = denoiser.unet.config
    channels = unet.in_channels // denoiser.patch**2
    zt, t = torch.zeros(BATCH, channels, SIDE, SIDE), torch.zeros(BATCH, dtype=torch.long)
    labels = None if unet.num_class_embeds is None else t
    work = _on_copy(denoiser, lambda net: net(zt, t, labels))
    return choose_runtime(precision, denoiser, "denoising", work)


def _on_copy(net: Net, work: Callable[[Net], object]) -> Callable[[Runtime], object]:
    @functools.lru_cache(maxsize=1)
    def prepared(runtime: Runtime) -> Net:
        twin = copy.deepcopy(net)
        prepare(twin, runtime)
        return twin

    def measured(runtime: Runtime) -> None:
        with torch.no_grad():
            work(prepared(runtime))

    return measured
