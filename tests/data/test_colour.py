import numpy as np
import torch

from jeppa.data.crops import jitter_colours


def test_jitter_is_a_function_of_the_generator_and_stays_in_range():
    x = torch.rand(3, 16, 16) * 2.0 - 1.0
    first, again = (jitter_colours(x, 1.0, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, jitter_colours(x, 1.0, np.random.default_rng(4)))
    assert first.abs().max() <= 1.0


def test_jitter_keeps_edges_where_they_are():
    """Red when a change depends on the place: one step stays one step, whatever its colours."""
    x = torch.zeros(3, 8, 8)
    x[:, :, 4:] = 0.2
    for seed in range(20):
        changed = jitter_colours(x, 0.7, np.random.default_rng(seed))
        assert (changed[:, :, :4] == changed[:, :1, :1]).all()
        assert (changed[:, :, 4:] == changed[:, :1, 4:5]).all()


def test_weak_jitter_only_exchanges_channels():
    x = torch.rand(3, 8, 8) - 0.5
    changed = jitter_colours(x, 1e-6, np.random.default_rng(0))
    torch.testing.assert_close(changed.sort(0).values, x.sort(0).values, atol=1e-4, rtol=0.0)
