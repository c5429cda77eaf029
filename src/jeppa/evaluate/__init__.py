"""How good a reconstruction is, and whether sigma tells its error."""

from jeppa.evaluate.pairs import paired_differences
from jeppa.evaluate.run import Evaluation, evaluate, write_metrics

__all__ = ["Evaluation", "evaluate", "paired_differences", "write_metrics"]
