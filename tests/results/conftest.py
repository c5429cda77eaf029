"""Tests of studies run on one thread: their tensors are so small that threads only wait for each other."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_equal_threads: None) -> None:
    torch.set_num_threads(1)
