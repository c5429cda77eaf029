"""In which number format and memory layout a net runs fastest on this machine, measured once for each net.

bf16 convolutions are about ten times faster than fp32 on processors with AMX and hundreds of times slower on those
without any bf16 instructions, so nothing is assumed. A candidate is chosen only if it is clearly faster than plain
fp32. The choice is remembered, so that a run repeated on the same machine makes the same choice.

The names of a net's weights do not depend on the choice. Convolutions are fastest channels last, but the backward pass
of a bf16 group norm takes about fourteen times as long in that layout as in the default one. `flat_norms` therefore
copies the input of each norm to the default layout and its output back, which costs less.
"""

import copy
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

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

from jeppa.config import Precision
from jeppa.diffusion import Denoiser
from jeppa.files import write_text_atomically
from jeppa.machine import processor
from jeppa.vae import HeteroscedasticVAE

CLEAR_WIN = 1.15
REPEATS = 3


@dataclass(frozen=True)
class Runtime:
    """How a net is run.

    Args:
        precision: of convolutions and matrix products; losses, likelihoods and samplers are float32 always.
        channels_last: memory layout of pictures and of the weights of convolutions.
        flat_norms: whether group norms work in the default layout within channels last.
        compiled: whether the blocks of diffusers' nets are compiled, which takes about a minute.
        reason: for people.
    """

    precision: Literal["fp32", "bf16"]
    channels_last: bool
    flat_norms: bool = False
    compiled: bool = False
    reason: str = ""

    @property
    def memory_format(self) -> torch.memory_format:
        """torch's name of the layout."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        """For the log: `bf16, channels_last, 2 threads: measured 5.0 times plain fp32`."""
        layout = "channels_last" if self.channels_last else "default layout"
        norms = " but for group norms" if self.flat_norms else ""
        compiled = ", compiled" if self.compiled else ""
        return f"{self.precision}, {layout}{norms}{compiled}, {torch.get_num_threads()} threads: {self.reason}"


EXACT = Runtime("fp32", False, reason="exact, as configured")
CANDIDATES = (
    Runtime("bf16", True), Runtime("bf16", True, flat_norms=True), Runtime("bf16", False), Runtime("fp32", True),
)  # fmt: skip
Work = Callable[[Runtime], object]


def choose_runtime(wanted: Precision, net: nn.Module, kind: str, work: Work) -> Runtime:
    """Choose the runtime for `net` on this machine; it is measured when `wanted` is auto.

    Args:
        wanted: auto measures; exact is fp32 in torch's default layout; bf16 is taken as it is, channels last.
        net: on its device; only its shapes and its device matter here.
        kind: what is measured, such as the shape of a batch: part of the key under which the choice is remembered.
        work: does a piece of the real work under the runtime that it is called with, and changes nothing.
    """
    device = next(net.parameters()).device
    if wanted == "exact":
        return EXACT
    if wanted == "bf16":
        return Runtime("bf16", True, reason="as configured")
    if device.type != "cpu":
        return _on_accelerator(device.type)
    if not _bf16_is_native():
        return replace(EXACT, reason="bf16 matrix products are slower than fp32 on this processor")
    key = _key(net, kind)
    remembered = _recall(key)
    if remembered is not None:
        return remembered
    choice = _measure(work)
    _remember(key, choice)
    return choice


def _on_accelerator(kind: str) -> Runtime:
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return Runtime("fp32", True, reason="cuda device without bf16")
    return Runtime("bf16", True, reason=f"{kind} device")


def _measure(work: Work) -> Runtime:
    base = _seconds(partial(work, EXACT))
    best, best_seconds = EXACT, base / CLEAR_WIN
    for candidate in CANDIDATES:
        seconds = _seconds(partial(work, candidate))
        if seconds < best_seconds:
            best, best_seconds = candidate, seconds
    gain = base / best_seconds if best is not EXACT else 1.0
    return replace(best, reason=f"measured {gain:.1f} times plain fp32")


def _seconds(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _bf16_is_native() -> bool:
    """Whether a small bf16 matrix product beats an fp32 one; emulated bf16 is hundreds of times slower."""

    def product_seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=dtype)
        return _seconds(lambda: torch.mm(matrix, matrix))

    return product_seconds(torch.bfloat16) < product_seconds(torch.float32)


def _key(net: nn.Module, kind: str) -> str:
    shapes = [tuple(parameter.shape) for parameter in net.parameters()]
    limits = os.environ.get("ONEDNN_MAX_CPU_ISA"), torch.get_num_threads(), os.cpu_count()
    content = repr((torch.__version__, processor(), limits, kind, shapes, CANDIDATES))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _cache_file() -> Path | None:
    """Where choices are remembered; None where there is neither XDG_CACHE_HOME nor a home, as in some containers."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(named) if named else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "jeppa" / "runtime.json"


def _recall(key: str) -> Runtime | None:
    """What was chosen before; None if nothing was chosen, or the entry is not one of the candidates."""
    entry = _read_choices().get(key)
    known = {(r.precision, r.channels_last, r.flat_norms) for r in (EXACT, *CANDIDATES)}
    try:
        choice = Runtime(**entry) if isinstance(entry, dict) else None
        return choice if choice and (choice.precision, choice.channels_last, choice.flat_norms) in known else None
    except TypeError:
        return None


def _read_choices() -> dict[str, Any]:
    path = _cache_file()
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(key: str, choice: Runtime) -> None:
    path = _cache_file()
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps({**_read_choices(), key: asdict(choice)}))
    except OSError:
        return  # A read-only home only costs measuring again.


CASTABLE = (nn.Conv2d, nn.Linear)
"""Layers whose weights become bf16. Norms keep float32 weights (their kernels take both), and buffers their type."""
BLOCKS = (
    AttnDownBlock2D, AttnUpBlock2D, DownBlock2D, DownEncoderBlock2D, UNetMidBlock2D, UpBlock2D, UpDecoderBlock2D,
)  # fmt: skip
"""Blocks that are compiled, each by itself. What lies between them is cheap, and some of it has hooks."""
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
    """Change the memory layout of `net` in place; training needs nothing else beside autocast.

    Returns:
        Handles of the hooks around group norms; removing them all takes the hooks away.
    """
    net.to(memory_format=runtime.memory_format)  # type: ignore[call-overload]
    if runtime.compiled:
        compile_blocks(net)
    return put_norms_in_default_layout(net) if runtime.flat_norms else []


def compile_blocks(net: nn.Module, backend: str = "inductor") -> None:
    """Let torch compile the blocks of `net` at their first use; a block that cannot be compiled runs uncompiled.

    The names of weights do not change.

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


def put_norms_in_default_layout(net: nn.Module) -> list[RemovableHandle]:
    """Let every group norm of `[B,C,H,W]` work in torch's default layout and return its output channels last.

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


Net = TypeVar("Net", bound=nn.Module)
SIDE = 16
"""Side of the latents on which time is measured: for most VAEs those of a picture of 128 pixels."""
BATCH = 4


def vae_runtime(vae: HeteroscedasticVAE, precision: Precision) -> Runtime:
    """The runtime for encoding and decoding."""
    side = SIDE * vae.settings.multiple
    x = torch.zeros(1, 3, side, side)
    return choose_runtime(
        precision, vae, "encode and decode", _on_copy(vae, lambda net: net.decode(net.encode(x).mean))
    )


def denoiser_runtime(denoiser: Denoiser, precision: Precision) -> Runtime:
    """The runtime for a denoising step."""
    unet = denoiser.unet.config
    channels = unet.in_channels // denoiser.patch**2
    zt, t = torch.zeros(BATCH, channels, SIDE, SIDE), torch.zeros(BATCH, dtype=torch.long)
    labels = None if unet.num_class_embeds is None else t
    work = _on_copy(denoiser, lambda net: net(zt, t, labels))
    return choose_runtime(precision, denoiser, "denoising", work)


def _on_copy(net: Net, work: Callable[[Net], object]) -> Callable[[Runtime], object]:
    @functools.lru_cache(maxsize=1)
    def prepare_copy(runtime: Runtime) -> Net:
        twin = copy.deepcopy(net)
        prepare(twin, runtime)
        return twin

    def run_copy(runtime: Runtime) -> None:
        with torch.no_grad():
            work(prepare_copy(runtime))

    return run_copy
