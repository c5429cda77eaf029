"""Training on many processes: which samples of a batch each of them takes, and what they tell one another.

`accelerate launch` or torchrun starts the processes and numbers them; the number of a process is its rank. A batch and
its noise are those of the whole step, whatever the number of processes, and each takes a block of neighbouring rows.
Means over the batch and the gradient are exchanged, so all processes take the step that one alone would take, but for
the order of summation. The first process (rank 0) alone writes files and prints.

A step may have fewer samples than there are processes. Then some of them compute a sample that does not count, because
every process has to take part in every exchange.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from torch import Tensor, distributed, nn

from jeppa.errors import JeppaError

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: longer than rank 0 takes to draw samples and to save."""


@dataclass(frozen=True)
class Part:
    """The samples of a step's batch that one process takes.

    Args:
        rows: their places in the batch; at least one.
        whole: how many samples the batch has.
        counts: False where the batch has no sample for this process, and the one in `rows` is another one's.
    """

    rows: range
    whole: int
    counts: bool = True

    def take(self, values: Tensor) -> Tensor:
        """The own rows of a tensor `[whole, ...]`."""
        return values[self.rows.start : self.rows.stop]


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, and which of them this is.

    Args:
        rank: number of this process, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def part(self, whole: int) -> Part:
        """The share of this process in a batch of `whole` samples."""
        rows = range(self.rank * whole // self.count, (self.rank + 1) * whole // self.count)
        return Part(rows, whole) if rows else Part(range(1), whole, counts=False)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        if self.count == 1:
            return flag
        flags = torch.tensor([float(flag)], device=PartialState().device)
        distributed.all_reduce(flags)
        return bool(flags.item() > 0.0)

    def from_first(self, work: Callable[[], T]) -> T:
        """Do `work` in the first process alone; its result, or the user error that it raises, is that of all."""
        if self.count == 1:
            return work()
        outcome: list[Any] = [None]
        if self.is_first:
            try:
                outcome = [work()]
            except JeppaError as error:
                outcome = [error]
        distributed.broadcast_object_list(outcome, src=0, device=PartialState().device)
        if isinstance(outcome[0], JeppaError):
            raise outcome[0]
        result: T = outcome[0]
        return result

    def equalise(self, module: nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.count > 1:
            for value in module.state_dict().values():
                distributed.broadcast(value, src=0)

    def gather(self, values: Tensor, part: Part) -> Tensor:
        """The rows of all processes, `[whole, ...]`, from the own rows of each."""
        if self.count == 1:
            return values
        rows = values.new_zeros(part.whole, *values.shape[1:])
        if part.counts:
            rows[part.rows.start : part.rows.stop] = values
        distributed.all_reduce(rows)
        return rows


ALONE = Ranks()


def find_ranks() -> Ranks:
    """What the launcher says of this process, without waiting for the others."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Within the block, this process is connected with the others that the launcher started."""
    ranks = find_ranks()
    if ranks.count > 1:
        PartialState(cpu=_lacks_accelerator(), timeout=PATIENCE)
    yield ranks
    if ranks.count > 1:  # not after an error: a process that died cannot be waited for
        distributed.barrier()
        PartialState().destroy_process_group()


def make_accelerator(ranks: Ranks) -> Accelerator:
    """What wraps model and optimizer; buffers stay as they are, because each process moves them by the same means."""
    if ranks.count == 1:
        return Accelerator()
    return Accelerator(
        cpu=_lacks_accelerator(), kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )


COUNTED = "counted"
"""Entry of a batch, `[B]`, in a training on many processes: 1 for samples that count, 0 for the others."""


def mean_of_batch(values: Tensor, counted: Tensor | None) -> Tensor:
    """The mean over the samples of the whole batch, in all processes.

    Args:
        values: `[B, ...]`, of the own samples, without gradient.
        counted: the entry `COUNTED` of the batch; None where one process has the whole batch.
    """
    if counted is None:
        return values.mean(0)
    sums = torch.cat([torch.tensordot(counted, values, dims=1).flatten(), counted.sum()[None]])
    distributed.all_reduce(sums)
    return (sums[:-1] / sums[-1]).view(values.shape[1:])


LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "NCCL", "Socket")
"""How the libraries of communication say that another process is gone; some end as plain `RuntimeError`s."""


def is_lost_process(error: Exception) -> bool:
    """Whether an error says that another process of the training is gone."""
    if find_ranks().count == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in LOST)


def _lacks_accelerator() -> bool:
    return not torch.accelerator.is_available()
