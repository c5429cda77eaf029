"""Runs the same net in another number format, memory layout or order of operations; its keys and weights stay.

Convolutions want channels last. Group norm of bf16 in that layout does not: its backward pass takes about fourteen
times as long as in the default one, more than two copies around it cost.
"""

import torch
from diffusers.models.unets.unet_2d_blocks import (
    AttnDownBlock2D,
    AttnUpBlock2D,
    DownBlock2D,
    DownEncoderBlock2D,
    UNetMidBlock2D,
    UpBlock2D,
    UpDecoderBlock2D,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from jeppa.runtime.choice import Runtime

CASTABLE = (nn.Conv2d, nn.Linear)
"""What computes in bf16. Norms keep float32 weights (their kernels take both), and buffers keep their precision."""

BLOCKS = (
    AttnDownBlock2D, AttnUpBlock2D, DownBlock2D, DownEncoderBlock2D, UNetMidBlock2D, UpBlock2D, UpDecoderBlock2D,
)  # fmt: skip
"""What is compiled, each by itself: what stands between them is cheap, and some of it is hooked."""

VERSIONS = 64
"""Most compiled versions of one kind of block: levels of all nets times shapes of crops."""


def prepare(net: nn.Module, runtime: Runtime) -> None:
    """Change `net` in place for inference under `runtime`; nothing for the exact one.

    A net that is prepared for bf16 must cast its input to the type of its first weight, as ours do.
    """
    lay_out(net, runtime)
    if runtime.precision == "bf16":
        cast_weights(net, torch.bfloat16)


def lay_out(net: nn.Module, runtime: Runtime) -> list[RemovableHandle]:
    """Change the memory layout of `net` in place, all that training needs beside autocast.

    Returns:
        Handles; removing them all undoes the detour of the norms.
    """
    net.to(memory_format=runtime.memory_format)  # type: ignore[call-overload]
    if runtime.compiled:
        compile_blocks(net)
    return norms_in_default_layout(net) if runtime.flat_norms else []


def compile_blocks(net: nn.Module, backend: str = "inductor") -> None:
    """Let torch compile the blocks of `net` at their first use; one that cannot be compiled runs as it is.

    Names of weights stay.

    Args:
        net: changed in place.
        backend: of `torch.compile`.
    """
    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.recompile_limit = VERSIONS
    for module in net.modules():
        if isinstance(module, BLOCKS):
            module.compile(backend=backend)


def cast_weights(net: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of convolutions and linear layers in `dtype`."""
    for module in net.modules():
        if isinstance(module, CASTABLE):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def norms_in_default_layout(net: nn.Module) -> list[RemovableHandle]:
    """Let every group norm of `[B,C,H,W]` work in torch's default layout and answer channels last.

    Returns:
        Handles; removing them all undoes it.
    """
    handles: list[RemovableHandle] = []
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            handles += [
                module.register_forward_pre_hook(_to_default_layout),
                module.register_forward_hook(_to_channels_last),
            ]
    return handles


def _to_default_layout(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.contiguous() for value in inputs)


def _to_channels_last(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.contiguous(memory_format=torch.channels_last) if output.ndim == 4 else output
