"""How good a reconstruction is, and whether sigma tells its error."""

from jeppa.evaluate.run import Evaluation, evaluate, write_metrics

__all__ = ["Evaluation", "evaluate", "write_metrics"]
