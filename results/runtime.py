"""Number formats, memory layouts and compilation, side by side: what each is worth here, and what takes the time.

    python results/runtime.py [--alternations 5] [--out results]

Four pieces of work, random weights: decoding 512x512 with the `small` and 256x256 with the `sd` preset, a denoising
step of four latents of 64x64, and a training step as in `jeppa bench`. All candidates of a piece take turns; a ratio is
that of plain fp32 to the candidate in the same turn. Then one pass of the fastest is profiled, by kind of operation.

Writes `runtime.json` and `runtime.md` into OUT.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from jeppa.config import DenoiserConfig
from jeppa.diffusion import Denoiser, make_unet
from jeppa.lab.bench import _config, seconds
from jeppa.machine import commit, machine
from jeppa.runtime import Runtime, lay_out, prepare
from jeppa.train import VAEObjective
from jeppa.train.step import autocast, placed
from jeppa.vae import HeteroscedasticVAE

HERE = Path(__file__).parent
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


def decoding(preset: str, side: int) -> Callable[[Runtime], Work]:
    """Work of a decoder on one latent."""
    torch.manual_seed(0)
    vae = HeteroscedasticVAE(preset).eval().requires_grad_(False)
    z = torch.randn(1, vae.config.latent_channels, side // 8, side // 8)

    def under(runtime: Runtime) -> Work:
        net = copy.deepcopy(vae)
        prepare(net, runtime)
        return torch.no_grad()(lambda: net.decode(z))

    return under


def denoising() -> Callable[[Runtime], Work]:
    """Work of the net that `jeppa train diffusion` makes unless told otherwise."""
    torch.manual_seed(0)
    config = DenoiserConfig()
    unet = make_unet(
        sample_size=64, latent_channels=4, block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block, attention=config.attention, num_classes=None,
    )  # fmt: skip
    denoiser = Denoiser(unet, "v_prediction", None).eval().requires_grad_(False)
    zt, t = torch.randn(4, 4, 64, 64), torch.full((4,), 500)

    def under(runtime: Runtime) -> Work:
        net = copy.deepcopy(denoiser)
        prepare(net, runtime)
        return torch.no_grad()(lambda: net(zt, t))

    return under


def training() -> Callable[[Runtime], Work]:
    """Loss and gradients of a batch."""
    config = _config()
    batch = next(iter(VAEObjective(config).batches(0, 1)))

    def under(runtime: Runtime) -> Work:
        objective = VAEObjective(config)
        lay_out(objective, runtime)

        def work() -> None:
            drawn = placed(objective.draw(batch, torch.Generator().manual_seed(0)), torch.device("cpu"), runtime)
            with autocast(torch.device("cpu"), runtime):
                terms = objective(drawn)
            terms["loss"].mean().backward()
            objective.zero_grad()

        return work

    return under


WORKS: dict[str, Callable[[], Callable[[Runtime], Work]]] = {
    "decode 512x512, small": lambda: decoding("small", 512),
    "decode 256x256, sd": lambda: decoding("sd", 256),
    "denoise 4 latents of 64x64": denoising,
    "train on 32 crops of 64x64": training,
}


def compare(under: Callable[[Runtime], Work], alternations: int) -> dict:
    """Seconds and ratios of every candidate, and the profile of the fastest."""
    torch.compiler.reset()
    works = {name: under(runtime) for name, runtime in CANDIDATES.items()}
    first = {name: seconds(work) for name, work in works.items()}
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(alternations)]
    rows = {}
    for name in works:
        ratios = [turn[BASE] / turn[name] for turn in turns]
        rows[name] = {
            "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
            "seconds": statistics.median(turn[name] for turn in turns), "first_seconds": first[name],
        }  # fmt: skip
    fastest = max(rows, key=lambda name: rows[name]["ratio"] if "compiled" not in name else 0.0)
    return {"rows": rows, "fastest": fastest, "profile": profile(works[fastest])}


def profile(work: Work) -> dict[str, float]:
    """Share of the time in each kind of operation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        work()
    spent = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)), "other")
        spent[kind] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: value / total for kind, value in spent.items()}


def table(record: dict) -> str:
    """The Markdown of a record."""
    about = record["machine"]
    lines = [
        "# Number formats, layouts and compilation", "",
        f"`{record['command']}` at commit {record['commit']}: {about['processor']}, {about['threads']} threads, torch "
        f"{about['torch']}. Ratio of plain fp32 to the candidate in the same turn, median [least, most] of "
        f"{record['alternations']} turns; the first pass holds the compiling.",
    ]  # fmt: skip
    for name, found in record["works"].items():
        lines += ["", f"## {name}", "", "| candidate | ratio | seconds | first pass, s |", "|---|---|---|---|"]
        for candidate, row in found["rows"].items():
            ratio = f"{row['ratio']:.2f} [{row['least']:.2f}, {row['most']:.2f}]"
            lines.append(f"| {candidate} | {ratio} | {row['seconds']:.3f} | {row['first_seconds']:.1f} |")
        shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in found["profile"].items())
        lines += ["", f'Time of "{found["fastest"]}": {shares}.']
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure all and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--alternations", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    record = {
        "command": "python results/runtime.py", "commit": commit(), "machine": machine(),
        "alternations": given.alternations, "works": {},
    }  # fmt: skip
    for name, make in WORKS.items():
        record["works"][name] = compare(make(), given.alternations)
        (given.out / "runtime.json").write_text(json.dumps(record, indent=1) + "\n")
        (given.out / "runtime.md").write_text(table(record))


if __name__ == "__main__":
    main()
