"""What do threads that wait cost? Training steps alone and beside a second process, by OpenMP's wait policy.

    python -m results.threads --turns 2

Each process takes steps of the preset `small` on random crops of 64 pixels, for some seconds at the same time as the
others. By default threads of OpenMP spin while they wait for each other; with OMP_WAIT_POLICY=PASSIVE, which the
command line sets, they sleep. Writes `threads.json` and `threads.md`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from results.record import (
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    markdown_table,
    report_progress,
    run_study,
    save_record,
    study_parser,
)

CASES = [(1, 2, "default"), (1, 2, "passive"), (2, 2, "default"), (2, 2, "passive"), (2, 1, "default")]
"""Processes, threads of each, and policy."""


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    if sys.argv[1:2] == ["worker"]:
        return work(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
    parser = study_parser("threads", __doc__)
    parser.add_argument("--turns", type=int, default=3, help="how often each case is measured, all in turn")
    parser.add_argument("--seconds", type=float, default=6.0, help="for which steps are counted")
    return run_study(parser, measure_cases, arguments)


def measure_cases(options: argparse.Namespace) -> None:
    """Measure every case in turn and write the record."""
    rates: dict[tuple[int, int, str], list[float]] = {case: [] for case in CASES}
    for _ in range(options.turns):
        for case in CASES:
            rates[case].append(measure_rate(*case, options.seconds))
            report_progress(f"{case}: {rates[case][-1]:.2f} steps/s")
    rows = [
        {"processes": case[0], "threads": case[1], "policy": case[2], "steps_per_second": found}
        for case, found in rates.items()
    ]
    save_record(options.command, options.out / "threads", {"seconds": options.seconds, "rows": rows}, render)


def measure_rate(processes: int, threads: int, policy: str, seconds: float) -> float:
    """Steps a second of all processes together."""
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    environment |= {"OMP_NUM_THREADS": str(threads)}
    environment |= {"OMP_WAIT_POLICY": "PASSIVE"} if policy == "passive" else {}
    begin = time.time() + 12.0  # by then all have loaded torch
    command = [sys.executable, "-m", "results.threads", "worker", str(threads), str(begin), str(seconds)]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(one.communicate()[0]) for one in running) / seconds


def work(threads: int, begin: float, seconds: float) -> int:
    """Take steps from `begin` on, by the clock, and print how many there were."""
    import torch

    from jeppa.vae import HeteroscedasticVAE

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, x = HeteroscedasticVAE("small"), torch.rand(8, 3, 64, 64) * 2.0 - 1.0
    time.sleep(max(0.0, begin - time.time()))
    steps, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        decoded = model.decode(model.encode(x).mean)
        (-decoded.log_prob(x).mean()).backward()
        model.zero_grad()
        steps += 1
    print(steps * seconds / (time.monotonic() - start))  # noqa: T201
    return 0


def render(record: Json) -> str:
    """The record as Markdown."""
    headers = ["processes", "threads of each", "OMP_WAIT_POLICY", "steps a second, together: median [least, most]"]
    rows = []
    for row in record["rows"]:
        found = row["steps_per_second"]
        spread = f"{statistics.median(found):.2f} [{min(found):.2f}, {max(found):.2f}]"
        rows.append([row["processes"], row["threads"], row["policy"], spread])
    return join_lines([
        "# Threads that wait",
        "",
        f"{describe_origin(record)}; {describe_machine(record)}. Steps (forward and backward) of the preset `small` on "
        f"8 crops of 64 pixels, counted for {record['seconds']:g} s.",
        "",
        markdown_table(headers, rows),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
