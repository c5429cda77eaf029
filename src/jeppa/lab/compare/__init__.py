"""Several likelihoods at one budget: the same data, seeds, steps and rate; what differs is measured in pairs."""

from jeppa.lab.compare.plan import ComparisonSettings
from jeppa.lab.compare.run import compare

__all__ = ["ComparisonSettings", "compare"]
