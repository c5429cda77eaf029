"""What a picture costs in each stage, and a simulation of many workers."""

import heapq
import os
import time
from pathlib import Path

import numpy as np
import torch

from jeppa.data import open_source
from jeppa.scale.encode import plan_encoding
from jeppa.scale.latents import CropSettings, shard_path
from results.record import Json
from results.scale.survival import draw_pictures

BILLION = 10**9
SIDES = (64, 256)
WORKERS = 1000
SHARDS = (64, 256, 1024, 4096)
SECONDS_A_PICTURE = 0.05
SLOW_SHARE, SLOW_FACTOR = 0.01, 5.0
FAILURES_AN_HOUR = 0.1
RESTART_SECONDS = 60.0
SIMULATED = 10_000_000
REPEATS = 3


def measure_stages(folder: Path) -> Json:
    """Processor seconds of one thread, which other programs on the machine do not add to, and bytes."""
    torch.set_num_threads(1)
    data = draw_pictures(folder / "data", 64)
    rows = []
    for side in SIDES:
        settings = CropSettings(resolution=side, per_shard=32)
        job = plan_encoding(Path("small"), open_source(data), folder / f"out-{side}", settings)
        make, spent = job.open(), {"read": 0.0, "encode": 0.0, "write": 0.0}
        make(0, job.read(0))
        for block in job.missing():
            moments = [time.process_time()]
            crops = job.read(block)
            moments.append(time.process_time())
            made = make(block, crops)
            moments.append(time.process_time())
            job.write(block, made)
            moments.append(time.process_time())
            for stage, seconds in zip(spent, np.diff(moments), strict=True):
                spent[stage] += float(seconds) / job.about.count
        size = sum(shard_path(job.out, shard).stat().st_size for shard in range(job.about.shards)) / job.about.count
        crop = 3 * 4 * side**2
        total = sum(spent.values())
        rows.append({
            "side": side, "seconds": spent, "bytes_of_crop": crop, "bytes_of_latent": size,
            "core_days_for_a_billion": total * BILLION / 86400, "terabytes_for_a_billion": size * BILLION / 1e12,
        })  # fmt: skip
    return {"threads": torch.get_num_threads(), "rows": rows, "load": os.getloadavg()[0]}


def simulate(folder: Path) -> Json:
    """Shares of the ideal speed that a thousand workers reach, by size of shard."""
    rows = []
    for size in SHARDS:
        shares = [_share_of_ideal(size, np.random.default_rng([0, size, repeat])) for repeat in range(REPEATS)]
        rows.append({"per_shard": size, "shares": shares, "shards_for_a_billion": -(-BILLION // size)})
    return {
        "workers": WORKERS, "pictures": SIMULATED, "seconds_a_picture": SECONDS_A_PICTURE, "slow_share": SLOW_SHARE,
        "slow_factor": SLOW_FACTOR, "failures_an_hour": FAILURES_AN_HOUR, "restart_seconds": RESTART_SECONDS,
        "rows": rows,
    }  # fmt: skip


def _share_of_ideal(size: int, rng: np.random.Generator) -> float:
    """Each free worker takes the next shard. One that fails loses the shard, and comes back after a minute.

    The ideal is that no worker is slow, fails or waits for the last one.
    """
    speed = np.where(rng.random(WORKERS) < SLOW_SHARE, SLOW_FACTOR, 1.0)
    free = [(0.0, worker) for worker in range(WORKERS)]
    left, end = -(-SIMULATED // size), 0.0
    while left:
        now, worker = heapq.heappop(free)
        seconds = size * SECONDS_A_PICTURE * speed[worker] * rng.lognormal(0.0, 0.1)
        failure = rng.exponential(3600.0 / FAILURES_AN_HOUR)
        if failure < seconds:
            heapq.heappush(free, (now + failure + RESTART_SECONDS, worker))
            continue
        left -= 1
        end = max(end, now + seconds)
        heapq.heappush(free, (now + seconds, worker))
    return SIMULATED * SECONDS_A_PICTURE / WORKERS / end
