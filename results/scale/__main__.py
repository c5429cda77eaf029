"""Are many processes as good as one, what survives a kill, and what does a picture cost?

    PYTHONPATH=tests/faults python -m results.scale

Parts, each of which can be measured by itself with `--only`; the others keep their figures:

- ranks: 50 steps in two gloo processes and in one, at the same batch, in float32.
- encode: 500 pictures with two Ray workers; a worker is killed by SIGKILL, then the command itself; it is run again,
  and the bytes are compared with those of one local process.
- sample: 10,000 seeds in random order by Ray, some of which are made again one by one.
- throughput: shipped VAE at 64 pixels, two one-thread workers of Ray beside two local processes, alternating.
- cost: processor seconds and bytes of each stage of `jeppa encode`, and from them what 10^9 pictures cost; and a
  simulation of stragglers, failures and sizes of shards.

Writes `scale.json` and `scale.md`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from results.record import Json, report_progress, run_study, save_record, study_parser
from results.scale.cost import measure_stages, simulate
from results.scale.survival import compare_ranks, compare_throughput, kill_encoding, sample_seeds
from results.scale.table import render

PARTS = {
    "ranks": compare_ranks,
    "encode": kill_encoding,
    "sample": sample_seeds,
    "throughput": compare_throughput,
    "cost": measure_stages,
    "simulation": simulate,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the study."""
    parser = study_parser("scale", __doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")

    def study(options: argparse.Namespace) -> None:
        path = options.out / "scale.json"
        for name in options.only.split(","):
            with tempfile.TemporaryDirectory() as folder:
                figures = PARTS[name](Path(folder))
            report_progress(f"{name}: {json.dumps(figures)[:300]}")
            parts: Json = json.loads(path.read_text())["parts"] if path.exists() else {}
            parts[name] = figures
            save_record(options.command, options.out / "scale", {"seed": 0, "parts": parts}, render)

    return run_study(parser, study, arguments)


if __name__ == "__main__":
    sys.exit(main())
