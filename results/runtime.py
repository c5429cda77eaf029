"""What are number formats, memory layouts and compilation worth on this machine, and what takes the time?

    python -m results.runtime [--alternations 5]

Times four pieces of work with random weights: decoding 512x512 with the preset `small` and 256x256 with `sd`, a
denoising step of four latents of 64x64, and a training step as in `jeppa bench`. All candidates take turns; a ratio is
the time of plain fp32 over that of the candidate in the same turn. Then one pass of the fastest candidate is profiled
by kind of operation. Writes `runtime.json` and `runtime.md`.
"""

import argparse
import copy
import statistics
import sys
from collections.abc import Callable

import torch

from jeppa.config import DenoiserConfig
from jeppa.diffusion import Denoiser, make_unet
from jeppa.lab.bench import make_training_run, seconds
from jeppa.runtime import Runtime, lay_out, prepare
from jeppa.train import VAEObjective
from jeppa.train.step import autocast, place
from jeppa.vae import HeteroscedasticVAE
from results.record import (
    Json,
    describe_origin,
    join_lines,
    markdown_table,
    run_study,
    save_record,
    show_interval,
    study_parser,
)

CANDIDATES = {
    "fp32, default layout": Runtime("fp32", False),
    "fp32, channels last": Runtime("fp32", True),
    "fp32, channels last, compiled": Runtime("fp32", True, compiled=True),
    "bf16, default layout": Runtime("bf16", False),
    "bf16, channels last": Runtime("bf16", True),
    "bf16, channels last but for norms": Runtime("bf16", True, flat_norms=True),
    "bf16, channels last, compiled": Runtime("bf16", True, compiled=True),
}
BASE = "fp32, default layout"
KINDS = {
    "convolution": ("convolution",), "attention": ("scaled_dot_product",), "matrix product": ("mm", "linear"),
    "group norm": ("group_norm",), "SiLU": ("silu",), "copies between formats and layouts": ("copy_", "to_copy"),
}  # fmt: skip
Work = Callable[[], object]
MakeWork = Callable[[Runtime], Work]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("runtime", __doc__)
    parser.add_argument("--alternations", type=int, default=5, help="turns of every candidate that are counted")
    return run_study(parser, measure_works, arguments)


def measure_works(options: argparse.Namespace) -> None:
    """Time every candidate on every piece of work, and write the record."""
    works = {
        "decode 512x512, small": prepare_decoding("small", 512),
        "decode 256x256, sd": prepare_decoding("sd", 256),
        "denoise 4 latents of 64x64": prepare_denoising(),
        "train on 32 crops of 64x64": prepare_training(),
    }
    figures = {name: compare_candidates(make_work, options.alternations) for name, make_work in works.items()}
    save_record(
        options.command, options.out / "runtime", {"alternations": options.alternations, "works": figures}, render
    )


def prepare_decoding(preset: str, side: int) -> MakeWork:
    """Decoding one picture of `side` pixels."""
    torch.manual_seed(0)
    vae = HeteroscedasticVAE(preset).eval().requires_grad_(False)
    z = torch.randn(1, vae.config.latent_channels, side // 8, side // 8)

    def make_work(runtime: Runtime) -> Work:
        net = copy.deepcopy(vae)
        prepare(net, runtime)
        return torch.no_grad()(lambda: net.decode(z))

    return make_work


def prepare_denoising() -> MakeWork:
    """One step of the net that `jeppa train diffusion` makes by default."""
    torch.manual_seed(0)
    config = DenoiserConfig()
    unet = make_unet(
        sample_size=64, latent_channels=4, block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block, attention=config.attention, num_classes=None,
    )  # fmt: skip
    denoiser = Denoiser(unet, "v_prediction", None).eval().requires_grad_(False)
    zt, t = torch.randn(4, 4, 64, 64), torch.full((4,), 500)

    def make_work(runtime: Runtime) -> Work:
        net = copy.deepcopy(denoiser)
        prepare(net, runtime)
        return torch.no_grad()(lambda: net(zt, t))

    return make_work


def prepare_training() -> MakeWork:
    """Loss and gradients of one batch."""
    config = make_training_run()
    batch = next(iter(VAEObjective(config).data.batches(0, 1)))

    def make_work(runtime: Runtime) -> Work:
        objective = VAEObjective(config)
        lay_out(objective, runtime)

        def work() -> None:
            batch_drawn = place(objective.draw(batch, torch.Generator().manual_seed(0)), torch.device("cpu"), runtime)
            with autocast(torch.device("cpu"), runtime):
                terms = objective(batch_drawn)
            terms["loss"].mean().backward()
            objective.zero_grad()

        return work

    return make_work


def compare_candidates(make_work: MakeWork, alternations: int) -> Json:
    """Seconds and ratios of every candidate, and the profile of the fastest one that is not compiled."""
    torch.compiler.reset()
    works = {name: make_work(runtime) for name, runtime in CANDIDATES.items()}
    first_seconds = {name: seconds(work) for name, work in works.items()}
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(alternations)]
    rows = {}
    for name in works:
        ratios = [turn[BASE] / turn[name] for turn in turns]
        rows[name] = {
            "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
            "seconds": statistics.median(turn[name] for turn in turns), "first_seconds": first_seconds[name],
        }  # fmt: skip
    fastest = max(rows, key=lambda name: rows[name]["ratio"] if "compiled" not in name else 0.0)
    return {"rows": rows, "fastest": fastest, "profile": profile_work(works[fastest])}


def profile_work(work: Work) -> dict[str, float]:
    """Share of the time in each kind of operation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        work()
    times = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)), "other")
        times[kind] += event.self_cpu_time_total
    total = sum(times.values())
    return {kind: value / total for kind, value in times.items()}


def render(record: Json) -> str:
    """The record as Markdown."""
    about = record["machine"]
    lines = [
        "# Number formats, layouts and compilation",
        "",
        f"{describe_origin(record)}: {about['processor']}, {about['threads']} threads, torch "
        f"{about['torch']}. Ratio of plain fp32 to the candidate in the same turn, median [least, most] of "
        f"{record['alternations']} turns; the first pass holds the compiling.",
    ]
    for name, figures in record["works"].items():
        rows = [
            [
                candidate, show_interval(row["ratio"], (row["least"], row["most"]), ".2f"), f"{row['seconds']:.3f}",
                f"{row['first_seconds']:.1f}",
            ]
            for candidate, row in figures["rows"].items()
        ]  # fmt: skip
        shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in figures["profile"].items())
        lines += ["", f"## {name}", "", markdown_table(["candidate", "ratio", "seconds", "first pass, s"], rows)]
        lines += ["", f'Time of "{figures["fastest"]}": {shares}.']
    return join_lines(lines)


if __name__ == "__main__":
    sys.exit(main())
