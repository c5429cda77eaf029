"""Compare likelihoods that were trained on the same budget: the same data, seeds, steps and rate."""

from jeppa.lab.compare.plan import ComparisonSettings
from jeppa.lab.compare.run import compare

__all__ = ["ComparisonSettings", "compare"]
