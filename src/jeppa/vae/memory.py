"""How a shortage of memory shows, and how it is told."""

import logging

import torch

# torch's CPU allocator has no error class of its own.
_CPU_MESSAGE = "can't allocate memory"


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory was short."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _CPU_MESSAGE in str(error)


def note(text: str) -> None:
    """Tell one line on standard error, or wherever the application sends the log of jeppa."""
    logging.getLogger("jeppa").warning(text)
