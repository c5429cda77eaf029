"""`jeppa bench`: time jeppa and unmodified diffusers on this machine, and write JSON and a Markdown table.

Two ways to do the same work are timed in turns, so that whatever else the machine does slows both. The benches are

- encode, decode and sigma at 512x512: the `sd` preset against diffusers' AutoencoderKL, and `small` against `sd`;
- training steps against a plain loop with diffusers and accelerate in fp32, with the same net, batch and pictures;
- a DDIM step and whole generation against diffusers' DDIMPipeline, on latents of 512x512 pictures;
- how time and memory grow with the pixels of a picture and with the batch, as exponents of a power law.
"""

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMPipeline
from numpy.typing import NDArray
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from jeppa.config import DataConfig, DenoiserConfig, OptimConfig, VAEConfig, VAERun
from jeppa.data import CropDataset, open_data
from jeppa.diffusion import (
    DDIM,
    Denoiser,
    generators_for,
    initial_noise,
    make_denoise,
    make_scheduler,
    make_unet,
    sample_ddim,
)
from jeppa.errors import ConfigError
from jeppa.files import write_text_atomically
from jeppa.machine import commit, machine
from jeppa.runtime import Runtime, denoiser_runtime, prepare, vae_runtime
from jeppa.train import VAEObjective, train
from jeppa.train.vae import initial_model
from jeppa.vae import FACTOR, HeteroscedasticVAE

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: of the comparison.
        ratio: median of peer time over our time; above 1 ours is faster. If it is another figure, `note` says which.
        ratio_min: least of the repetitions.
        ratio_max: greatest of them.
        ours_s: median seconds of ours, or None.
        peer_s: median seconds of the peer, or None.
        note: what was measured.
    """

    name: str
    ratio: float
    ratio_min: float
    ratio_max: float
    ours_s: float | None
    peer_s: float | None
    note: str

    def as_json(self) -> dict[str, Any]:
        """The row as JSON, floats with four significant digits."""
        return {key: _round_to_four_digits(value) for key, value in asdict(self).items()}


def race(name: str, ours: Work, peer: Work, alternations: int, note: str) -> Row:
    """Run both once to warm up, then time them in turns; each turn another one begins.

    Args:
        name: of the row.
        ours: our way to do the work.
        peer: the way of the peer.
        alternations: how many turns of two timed runs, at least 1.
        note: of the row.
    """
    seconds(ours), seconds(peer)
    pairs = []
    for turn in range(alternations):
        if turn % 2:
            theirs = seconds(peer)
            pairs.append((seconds(ours), theirs))
        else:
            own = seconds(ours)
            pairs.append((own, seconds(peer)))
    ratios = [theirs / own for own, theirs in pairs]
    return Row(
        name, statistics.median(ratios), min(ratios), max(ratios),
        statistics.median(own for own, _ in pairs), statistics.median(theirs for _, theirs in pairs), note,
    )  # fmt: skip


def figure(name: str, values: list[float], note: str) -> Row:
    """Make a row without a peer: it has the median of `values` in place of the ratio."""
    return Row(name, statistics.median(values), min(values), max(values), None, None, note)


def seconds(work: Work) -> float:
    """Wall-clock seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _round_to_four_digits(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


SD_SIDE = 512
PRESET: str | VAEConfig = "sd"
PRODUCT_SIDES = (1024, 2048, 3072)


@torch.no_grad()
def sd_rows(alternations: int) -> Iterator[Row]:
    """Compare with the same random weights in fp32 and torch's default layout, as diffusers opens them."""
    peer, ours, runtime = _make_twins(PRESET)
    x = torch.rand(1, 3, SD_SIDE, SD_SIDE, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
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
    yield _measure_product_share(without, z, runtime, alternations)
    small = _make_twins("small")[1]
    yield race(
        "small_against_sd_512", lambda: small.decode(small.encode(x).mean), lambda: ours.decode(ours.encode(x).mean),
        alternations, "encode, decode and sigma of our small preset; the peer is our sd preset",
    )  # fmt: skip


def _make_twins(preset: str | VAEConfig) -> tuple[HeteroscedasticVAE, HeteroscedasticVAE, Runtime]:
    """Make a model with random weights twice: unchanged, and prepared to be as fast as this machine can run it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = HeteroscedasticVAE(preset).eval().requires_grad_(False)
    fast = copy.deepcopy(plain)
    runtime = vae_runtime(fast, "auto")
    prepare(fast, runtime)
    return plain, fast, runtime


def _psnr(fast: Tensor, exact: Tensor) -> float:
    """PSNR in dB. Its peak is the range of `exact`, since what random weights make does not fill [-1,1]."""
    span = exact.amax() - exact.amin()
    return float(20.0 * torch.log10(span) - 10.0 * torch.log10((fast - exact).square().mean().clamp(min=1e-20)))


def _measure_product_share(vae: HeteroscedasticVAE, z: Tensor, runtime: Runtime, alternations: int) -> Row:
    """Operations a second in the decoder, as a share of those in matrix products of the same number format."""
    with FlopCounterMode(display=False) as counter:
        vae.decode(z)
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    peak = max(_product_speed(side, dtype) for side in PRODUCT_SIDES)
    speeds = [counter.get_total_flops() / seconds(lambda: vae.decode(z)) for _ in range(alternations)]
    note = (
        f"share of {peak / 1e9:.0f} GFLOP/s, the most that {dtype} matrix products reach here, in decoding "
        f"{SD_SIDE}x{SD_SIDE} with sd: {statistics.median(speeds) / 1e9:.0f} GFLOP/s; latents of {SD_SIDE // FACTOR}"
    )
    return figure("matmul_share", [speed / peak for speed in speeds], note)


def _product_speed(side: int, dtype: torch.dtype) -> float:
    matrix = torch.ones(side, side, dtype=dtype)
    return 2.0 * side**3 / min(seconds(lambda: torch.mm(matrix, matrix)) for _ in range(4))


TRAINING_BATCH = 32
TRAINING_SIDE = 64
STEPS_A_TURN = 2
MANY_STEPS = 1_000_000
LEARNING_RATE = 3e-4
MODEL = VAEConfig(
    pixel_unshuffle=1, block_out_channels=(32, 64, 128, 128), layers_per_block=1, norm_num_groups=16,
    mid_block_attention=True, sigma_channels=48,
)  # fmt: skip


def training_rows(alternations: int) -> Iterator[Row]:
    """Compare training steps; the time to read and crop the pictures is included."""
    config = make_training_run()
    with tempfile.TemporaryDirectory() as folder:
        objective = VAEObjective(config)
        with closing(train(objective, Path(folder) / "run")) as records, closing(plain_loop(config)) as peer:
            note = next(records).note
            yield race(
                "small_train_64", lambda: _take_steps(records), lambda: _take_steps(peer), alternations,
                f"{STEPS_A_TURN} steps of {TRAINING_BATCH} crops of {TRAINING_SIDE} pixels, no sigma head; ours {note}",
            )  # fmt: skip


def plain_loop(config: VAERun) -> Generator[float, None, None]:
    """The loop that a user of diffusers would write; yields the loss of each step."""
    accelerator = Accelerator()
    model: AutoencoderKL = initial_model(config, None)[0].vae
    crops = CropDataset(open_data(config.data, "train"), TRAINING_SIDE, config.seed)
    keys = (range(start, start + TRAINING_BATCH) for start in range(0, MANY_STEPS * TRAINING_BATCH, TRAINING_BATCH))
    loader = DataLoader(crops, batch_sampler=keys)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    model, optimizer = accelerator.prepare(model, optimizer)
    for batch in loader:
        posterior = model.encode(batch["x"]).latent_dist
        loss = F.mse_loss(model.decode(posterior.sample()).sample, batch["x"]) + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield float(loss.detach())


def make_training_run() -> VAERun:
    """Settings of a training run that ends when nobody asks for another step."""
    optim = OptimConfig(
        steps=MANY_STEPS, batch_size=TRAINING_BATCH, learning_rate=LEARNING_RATE, log_every=MANY_STEPS,
        sample_every=MANY_STEPS, save_every=MANY_STEPS,
    )  # fmt: skip
    data = DataConfig(resolution=TRAINING_SIDE, sizes=1)
    return VAERun(preset=None, model=MODEL, likelihood="shared", data=data, optim=optim)


def _take_steps(steps: Iterator[object]) -> None:
    for _ in islice(steps, STEPS_A_TURN):
        pass


CHANNELS = 4
LATENT_SIDE = 64
SAMPLING_BATCH = 4
STEPS = 25


def sampling_rows(alternations: int) -> Iterator[Row]:
    """Compare sampling with the default net of `jeppa train diffusion` and random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = DenoiserConfig()
        unet = make_unet(
            sample_size=LATENT_SIDE, latent_channels=CHANNELS, block_out_channels=config.block_out_channels,
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
        generators = generators_for(range(SAMPLING_BATCH))
        noise = initial_noise((CHANNELS, LATENT_SIDE, LATENT_SIDE), generators)
        for _ in sample_ddim(
            make_denoise(net, None), noise, schedule, DDIM(steps, temperature=temperature), generators
        ):
            pass

    def peer(steps: int) -> None:
        pipeline(SAMPLING_BATCH, generators_for(range(SAMPLING_BATCH)), num_inference_steps=steps, output_type="np")

    about = f"batch {SAMPLING_BATCH}, latents of {LATENT_SIDE}x{LATENT_SIDE}, same net; ours {runtime}"
    yield race("ddim_step_512", lambda: ours(fast, 1, 0.0), lambda: peer(1), alternations, f"one step, {about}")
    yield race(
        "ddim_25_512", lambda: ours(fast, STEPS, 0.0), lambda: peer(STEPS), alternations, f"{STEPS} steps, {about}"
    )
    yield race(
        "ddim_25_512_learned", lambda: ours(with_head, STEPS, 1.0), lambda: peer(STEPS), alternations,
        f"{STEPS} steps with the learned variance and its head beside {STEPS} without, {about}",
    )  # fmt: skip


SIDES = (256, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 4, 8, 16)
BATCH_SIDE = 256


def growth_rows(alternations: int) -> Iterator[Row]:
    """Measure encode, decode and sigma of `small` with tiles and random weights, each size in its own process."""
    sizes = [_run_alone(_picture, side, alternations) for side in SIDES]
    pixels = [side**2 for side in SIDES]
    details = ", ".join(f"{side}: {s:.2f} s, {mib:.0f} MiB" for side, (s, mib) in zip(SIDES, sizes, strict=True))
    yield fit_exponent("pixels_time_exponent", pixels, [s for s, _ in sizes], details)
    yield fit_exponent("pixels_memory_exponent", pixels, [max(mib, 1.0) for _, mib in sizes], details)
    batches = [_run_alone(_batch, size, alternations) for size in BATCHES]
    details = ", ".join(f"{size}: {s:.2f} s, {mib:.0f} MiB" for size, (s, mib) in zip(BATCHES, batches, strict=True))
    yield fit_exponent("batch_time_exponent", list(BATCHES), [s for s, _ in batches], details)
    yield fit_exponent("batch_memory_exponent", list(BATCHES), [max(mib, 1.0) for _, mib in batches], details)


def fit_exponent(name: str, sizes: list[int], values: list[float], details: str) -> Row:
    """Fit the slope of log value over log size; its spread is that of the slopes with one size left out."""
    size, value = np.log(np.asarray(sizes, float)), np.log(np.asarray(values))
    slope = _slope(size, value)
    without = [_slope(np.delete(size, i), np.delete(value, i)) for i in range(len(sizes))]
    return Row(name, slope, min(without), max(without), None, None, f"exponent, not a ratio; {details}")


def _slope(size: NDArray[np.float64], value: NDArray[np.float64]) -> float:
    return float(np.polyfit(size, value, 1)[0])


def _run_alone(work: Callable[[int, int], tuple[float, float]], size: int, repeats: int) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, size, repeats).result()


def _picture(side: int, repeats: int) -> tuple[float, float]:
    vae = HeteroscedasticVAE("small").eval().requires_grad_(False)
    vae.enable_tiling()
    return _measure_run(vae, torch.rand(1, 3, side, side) * 2.0 - 1.0, repeats if side < SIDES[-1] else 1)


def _batch(size: int, repeats: int) -> tuple[float, float]:
    vae = HeteroscedasticVAE("small").eval().requires_grad_(False)
    return _measure_run(vae, torch.rand(size, 3, BATCH_SIDE, BATCH_SIDE) * 2.0 - 1.0, repeats)


@torch.no_grad()
def _measure_run(vae: HeteroscedasticVAE, x: torch.Tensor, repeats: int) -> tuple[float, float]:
    """Median seconds, and the MiB that the process needs beyond those for the model and the picture."""
    vae.reconstruct(x[..., :64, :64])
    before = _mib("VmRSS")
    times = [seconds(lambda: vae.reconstruct(x)) for _ in range(repeats)]
    return statistics.median(times), _mib("VmHWM") - before


def _mib(key: str) -> float:
    """Memory of this process in MiB: now (VmRSS) or its peak (VmHWM). The peak from getrusage includes the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024.0 for line in lines if line.startswith(f"{key}:"))


BENCHES: dict[str, Callable[[int], Iterator[Row]]] = {
    "sd": sd_rows, "training": training_rows, "sampling": sampling_rows, "growth": growth_rows,
}  # fmt: skip


def run_benches(names: Sequence[str], alternations: int, out: Path, command: str) -> Iterator[Row]:
    """Measure and yield row by row; before each one, all rows so far are written as JSON and Markdown.

    Args:
        names: keys of `BENCHES`.
        alternations: timed pairs of each comparison.
        out: JSON file; the Markdown goes beside it with the ending .md.
        command: the command line, for the record.

    Raises:
        ConfigError: a name is unknown or `alternations` below 1; nothing has run then.
    """
    unknown = [name for name in names if name not in BENCHES]
    if unknown or not names:
        raise ConfigError(f"bench is {', '.join(unknown) or 'empty'}, but must be of {', '.join(BENCHES)}")
    if alternations < 1:
        raise ConfigError(f"alternations is {alternations}, but must be at least 1; 5 show a spread")
    return _measure_rows(names, alternations, out, command)


def _measure_rows(names: Sequence[str], alternations: int, out: Path, command: str) -> Iterator[Row]:
    record: dict[str, Any] = {
        "command": command, "commit": commit(), "machine": machine(), "alternations": alternations, "rows": [],
    }  # fmt: skip
    for name in names:
        for row in BENCHES[name](alternations):
            record["rows"].append(row.as_json())
            write_text_atomically(out, json.dumps(record, indent=1) + "\n")
            write_text_atomically(out.with_suffix(".md"), make_table(record))
            yield row


def make_table(record: dict[str, Any]) -> str:
    """Make the Markdown of a record."""
    about = record["machine"]
    rows = [
        [
            f"`{row['name']}`",
            f"{row['ratio']:.3g} [{row['ratio_min']:.3g}, {row['ratio_max']:.3g}]",
            *("" if row[key] is None else f"{row[key]:.3g}" for key in ("ours_s", "peer_s")),
            row["note"],
        ]
        for row in record["rows"]
    ]
    headers = ["row", "ratio", "ours, s", "peer, s", "what"]
    lines = [
        "# Speed",
        "",
        f"`{record['command']}` at commit {record['commit']}: {about['processor']}, {about['cores']} cores, "
        f"{about['threads']} threads, torch {about['torch']}. Both sides of a ratio were timed in turn, "
        f"{record['alternations']} times after a warm-up; median [least, most]. Above 1 ours is faster.",
        "",
        tabulate(rows, headers, tablefmt="github", stralign=None, disable_numparse=True),
        "",
    ]
    return "\n".join(lines)
