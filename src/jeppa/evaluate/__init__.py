"""How good a reconstruction is, and whether sigma tells its error."""

from jeppa.evaluate.run import Evaluation, commit, evaluate, versions, write_metrics

__all__ = ["Evaluation", "commit", "evaluate", "versions", "write_metrics"]
