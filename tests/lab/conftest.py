"""For tests of measures: their tensors are so small that threads only wait for each other."""

import pytest
import torch


@pytest.fixture
def one_thread(_equal_threads: None) -> None:
    torch.set_num_threads(1)
