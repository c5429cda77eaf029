"""How a shortage of memory shows, and how it is told."""

import logging
import re

import torch

# On a processor torch says it by a RuntimeError: its own allocator, that of C++, and oneDNN's. "Could not create a
# primitive descriptor" is another thing: oneDNN has no kernel for what it was given.
_MESSAGES = re.compile(
    r"can't allocate memory|bad_alloc|could not (create a memory|(create|execute) a primitive)(?! descriptor)"
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory was short."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _MESSAGES.search(str(error)) is not None


def note(text: str) -> None:
    """Tell one line on standard error, or wherever the application sends the log of jeppa."""
    logging.getLogger("jeppa").warning(text)
