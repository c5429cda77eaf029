"""Encode, decode and sigma at 512x512: the `sd` preset beside diffusers' AutoencoderKL, and `small` beside `sd`."""

import copy
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from jeppa.bench.clock import Row, figure, race, seconds
from jeppa.config import VAEConfig
from jeppa.pipeline.speed import vae_runtime
from jeppa.runtime import Runtime, prepare
from jeppa.vae import FACTOR, HeteroscedasticVAE

SIDE = 512
PRESET: str | VAEConfig = "sd"
PRODUCT_SIDES = (1024, 2048, 3072)


@torch.no_grad()
def sd_rows(alternations: int) -> Iterator[Row]:
    """Against the same random weights in fp32 and torch's default layout, as diffusers opens them."""
    peer, ours, runtime = _twins(PRESET)
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    z = peer.encode(x).mean
    theirs = peer.vae
    note = f"same random weights; ours {runtime}"
    yield race(
        "sd_encode_512", lambda: ours.encode(x).mean, lambda: theirs.encode(x).latent_dist.mean, alternations, note
    )
    without = copy.deepcopy(ours)
    without.sigma_head, without.likelihood, without.arm = None, "shared", HeteroscedasticVAE("tiny", "shared").arm
    yield race("sd_decode_512", lambda: without.decode(z), lambda: theirs.decode(z).sample, alternations, note)
    yield figure("sd_decode_512_psnr", [_psnr(ours.decode(z).mean, theirs.decode(z).sample)], "dB to fp32, not a ratio")
    head = race("", lambda: without.decode(z), lambda: ours.decode(z), alternations, "")
    yield Row(
        "sigma_overhead", head.ratio, head.ratio_min, head.ratio_max, head.peer_s, head.ours_s,
        "time of decoding with the sigma head over without: 1.05 is 5 % more",
    )  # fmt: skip
    yield _share(without, z, runtime, alternations)
    small = _twins("small")[1]
    yield race(
        "small_against_sd_512", lambda: small.decode(small.encode(x).mean), lambda: ours.decode(ours.encode(x).mean),
        alternations, "encode, decode and sigma of our small preset; the peer is our sd preset",
    )  # fmt: skip


def _twins(preset: str | VAEConfig) -> tuple[HeteroscedasticVAE, HeteroscedasticVAE, Runtime]:
    """A randomly initialised model as it comes, and the same one as fast as this machine runs it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = HeteroscedasticVAE(preset).eval().requires_grad_(False)
    fast = copy.deepcopy(plain)
    runtime = vae_runtime(fast, "auto")
    prepare(fast, runtime)
    return plain, fast, runtime


def _psnr(found: Tensor, wanted: Tensor) -> float:
    """In dB, with the range of `wanted` for a peak: random weights do not fill [-1,1]."""
    span = wanted.amax() - wanted.amin()
    return float(20.0 * torch.log10(span) - 10.0 * torch.log10((found - wanted).square().mean().clamp(min=1e-20)))


def _share(vae: HeteroscedasticVAE, z: Tensor, runtime: Runtime, alternations: int) -> Row:
    """Operations of the decoder a second, as a share of what matrix products of the same number format reach."""
    with FlopCounterMode(display=False) as counter:
        vae.decode(z)
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    peak = max(_product_speed(side, dtype) for side in PRODUCT_SIDES)
    speeds = [counter.get_total_flops() / seconds(lambda: vae.decode(z)) for _ in range(alternations)]
    note = (
        f"share of {peak / 1e9:.0f} GFLOP/s, the most that {dtype} matrix products reach here, in decoding "
        f"{SIDE}x{SIDE} with sd: {statistics.median(speeds) / 1e9:.0f} GFLOP/s; latents of {SIDE // FACTOR}"
    )
    return figure("matmul_share", [speed / peak for speed in speeds], note)


def _product_speed(side: int, dtype: torch.dtype) -> float:
    matrix = torch.ones(side, side, dtype=dtype)
    return 2.0 * side**3 / min(seconds(lambda: torch.mm(matrix, matrix)) for _ in range(4))
