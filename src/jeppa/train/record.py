"""The log of a run: `log.jsonl`, TensorBoard, and the record that the loop yields after each step."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from jeppa.checkpoint import write_text_atomically


@dataclass(frozen=True)
class StepRecord:
    """What the caller of the loop learns after each step.

    Args:
        step: steps taken so far, from 1.
        total: steps of the whole run.
        images: images seen so far.
        images_per_second: in this run of the loop.
        figures: the content of the line just logged; empty on steps without a line.
        note: something worth telling a person, or empty.
    """

    step: int
    total: int
    images: int
    images_per_second: float
    figures: dict[str, float]
    note: str = ""


class RunLog:
    """Appends to `log.jsonl` and to TensorBoard; on resume, forgets what the lost steps wrote."""

    def __init__(self, run: Path, start: int) -> None:
        self._path = run / "log.jsonl"
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if _logged_step(line) <= start]
        write_text_atomically(self._path, "".join(line + "\n" for line in kept))
        self._board = SummaryWriter(str(run), purge_step=start + 1)

    def write(self, figures: dict[str, float]) -> None:
        """Append one line; `figures` has a `step`."""
        rounded = {key: value if isinstance(value, int) else float(f"{value:.6g}") for key, value in figures.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        for key, value in figures.items():
            if key != "step":
                self._board.add_scalar(key, value, int(figures["step"]))

    def close(self) -> None:
        """Flush TensorBoard."""
        self._board.close()


def _logged_step(line: str) -> float:
    """The step of a log line; a half-written one counts as lost."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
