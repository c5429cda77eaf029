"""Several likelihoods at one budget: the same data, seeds, steps and rate; what differs is measured in pairs."""

from jeppa.lab.compare.plan import Comparison
from jeppa.lab.compare.run import compare

__all__ = ["Comparison", "compare"]
