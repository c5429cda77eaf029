"""What means that memory was short, in the words of those who say it."""

import pytest
import torch

from jeppa.machine import lacks_memory

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(ALLOCATOR),
     RuntimeError("std::bad_alloc"), RuntimeError("could not create a memory object"),
     RuntimeError("could not create a primitive"), RuntimeError("could not execute a primitive")],
    ids=str,
)  # fmt: skip
def test_every_way_to_say_it_is_known(error: Exception):
    """As torch 2.13 and the libraries in it put it. Red when any one is left out."""
    assert lacks_memory(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("could not create a primitive descriptor for the matmul primitive. Run workload with ..."),
     RuntimeError("shapes do not match"), ValueError("can't allocate memory")],
    ids=str,
)  # fmt: skip
def test_other_errors_are_not_taken_for_it(error: Exception):
    """Red when what oneDNN has no kernel for counts too: smaller parts would hide a bug behind notes about memory."""
    assert not lacks_memory(error)
