"""How fast jeppa is beside diffusers as it comes, on this machine, in one run."""

from jeppa.bench.run import BENCHES, run_benches

__all__ = ["BENCHES", "run_benches"]
