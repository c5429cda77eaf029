"""Processes that are compared with one, and killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from ranked import start_ranks

from jeppa.config import DiffusionRun, SamplerSettings, VAERun, parse
from jeppa.data import open_source, write_png
from jeppa.files import parse_json
from jeppa.pipeline import load_model
from jeppa.scale.encode import plan_encoding
from jeppa.scale.engine import Engine, run_blocks
from jeppa.scale.latents import CropSettings, LatentShards
from jeppa.scale.sample import plan_sampling
from jeppa.train import DiffusionObjective, VAEObjective, train
from results.record import Json

STEPS = 50
PICTURES = 500
SEEDS, CHECKED = 10_000, 200
ROUNDS = 3


def compare_ranks(folder: Path) -> Json:
    """Losses of two processes and of one, and the weights of both processes."""
    optim = {"steps": STEPS, "batch_size": 5, "log_every": 1, "sample_every": 10**6, "precision": "exact"}
    config = parse(VAERun, {"preset": "tiny", "data": {"resolution": 32}, "optim": optim}, "study")
    for count in (1, 2):
        codes = [child.wait(1200.0) for child in start_ranks(folder / str(count), count, config, folder / str(count))]
        assert codes == [0] * count
    logs = [(folder / f"{count}/run/log.jsonl").read_text().splitlines() for count in (1, 2)]
    one, two = ([json.loads(line)["loss"] for line in log] for log in logs)
    first, second = (torch.load(folder / f"2/{rank}.pt") for rank in (0, 1))
    return {
        "steps": STEPS,
        "largest_difference_of_loss": max(abs(a - b) for a, b in zip(one, two, strict=True)),
        "last_loss": one[-1],
        "tensors": len(first),
        "tensors_that_differ_between_ranks": sum(not torch.equal(first[key], second[key]) for key in first),
    }


def draw_pictures(folder: Path, count: int) -> Path:
    """Noise of 80 pixels a side."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        write_png(rng.integers(0, 256, (80, 80, 3), np.uint8), folder / f"{index:05d}.png")
    return folder


def kill_encoding(folder: Path) -> Json:
    """Kill a worker, then the command, and run it again."""
    data, out = draw_pictures(folder / "data", PICTURES), folder / "ray"
    command = [
        sys.executable, "-m", "jeppa", "encode", "--model", "small", "--data", str(data), "--resolution", "64",
        "--split", "all", "--per-shard", "16",
    ]  # fmt: skip
    on_ray = [*command, "--out", str(out), "--engine", "ray", "--workers", "2"]
    driver = subprocess.Popen(on_ray, stdout=subprocess.DEVNULL)
    shards = -(-PICTURES // 16)
    _wait_for_shards(out, 4)
    worker = next(one for one in psutil.Process(driver.pid).children(recursive=True) if "MapWorker" in _title(one))
    worker.send_signal(signal.SIGKILL)
    at_worker = len(list(out.glob("shard-*.tar")))
    _wait_for_shards(out, at_worker + 6)
    family = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    at_driver = len(list(out.glob("shard-*.tar")))
    _, left = psutil.wait_procs(family, timeout=60)
    subprocess.run(on_ray, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*command, "--out", str(folder / "local"), "--workers", "1"], check=True, stdout=subprocess.DEVNULL)
    ids = [number for path in sorted(out.glob("shard-*.tar")) for number in _ids(path)]
    names = {path.name for path in (folder / "local").iterdir()}
    return {
        "pictures": PICTURES,
        "shards": shards,
        "shards_at_kill_of_worker": at_worker,
        "shards_at_kill_of_command": at_driver,
        "processes_left_of_killed_command": len(left),
        "ids_exactly_once": sorted(ids) == list(range(PICTURES)),
        "latents_read": len(LatentShards(out)),
        "files": len(names),
        "files_that_differ_from_local": sum(
            (out / name).read_bytes() != (folder / "local" / name).read_bytes() for name in names
        ),
    }


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _wait_for_shards(out: Path, count: int) -> None:
    deadline = time.monotonic() + 900
    while len(list(out.glob("shard-*.tar"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _ids(path: Path) -> list[int]:
    import tarfile

    with tarfile.open(path) as tar:
        stream = tar.extractfile("__about__/shard.json")
        assert stream is not None
        ids: list[int] = parse_json(stream.read(), str(path))["ids"]
    return ids


def _tiny_denoiser(folder: Path) -> Path:
    quick = {"steps": 2, "batch_size": 2, "precision": "exact"}
    vae = parse(VAERun, {"preset": "tiny", "data": {"resolution": 32}, "optim": quick}, "study")
    list(train(VAEObjective(vae), folder / "vae"))
    values = {
        "vae": str(folder / "vae"), "views": 8, "model": {"block_out_channels": [16, 16], "attention": [False, True]},
        "data": {"resolution": 32}, "optim": quick,
    }  # fmt: skip
    objective = DiffusionObjective(parse(DiffusionRun, values, "study"), load_model(folder / "vae").codec)
    list(train(objective, folder / "denoiser"))
    return folder / "denoiser"


def sample_seeds(folder: Path) -> Json:
    """Seeds in random order by Ray; some of them once more, one by one, in this process."""
    model, settings = _tiny_denoiser(folder), SamplerSettings(steps=1)
    order = random.Random(0).sample(range(SEEDS), SEEDS)
    began = time.perf_counter()
    for _ in run_blocks(plan_sampling(model, folder / "ray", [(seed, settings) for seed in order]), "ray", 2):
        pass
    seconds = time.perf_counter() - began
    chosen = sorted(random.Random(1).sample(range(SEEDS), CHECKED))
    for _ in run_blocks(plan_sampling(model, folder / "alone", [(seed, settings) for seed in chosen]), "local", 1):
        pass
    names = [f"{seed:06d}.png" for seed in chosen]
    return {
        "seeds": SEEDS,
        "pictures": len(list((folder / "ray").glob("*.png"))),
        "seconds": round(seconds, 1),
        "compared": len(names),
        "files_that_differ": sum(
            (folder / "ray" / name).read_bytes() != (folder / "alone" / name).read_bytes() for name in names
        ),
    }


def compare_throughput(folder: Path) -> Json:
    """Pictures a second between the first and the last block that is done, so that starting up does not count."""
    data = open_source(draw_pictures(folder / "data", PICTURES))
    rates: dict[str, list[float]] = {"ray": [], "local": []}
    engines: tuple[Engine, ...] = ("local", "ray")
    for number in range(ROUNDS):
        for engine in engines:
            settings = CropSettings(resolution=64, per_shard=8, crops=4)
            job = plan_encoding(Path("small"), data, folder / f"{engine}-{number}", settings)
            times = [time.perf_counter() for _ in run_blocks(job, engine, 2)]
            rates[engine].append((len(times) - 1) * 8 / (times[-1] - times[0]))
    ratios = [ray / local for ray, local in zip(rates["ray"], rates["local"], strict=True)]
    return {"pictures": PICTURES * 4, "workers": 2, "pictures_per_second": rates, "ratios": ratios}
