"""diffusers' suite for its DDIMScheduler, test for test, on ours. How to run it: see `suites`."""

from importlib.util import find_spec

import pytest
from suites import suite

from jeppa.diffusion import HeteroscedasticDDIMScheduler

pytestmark = pytest.mark.filterwarnings("ignore")


class TestHeteroscedasticDDIM(suite("schedulers", "test_scheduler_ddim").DDIMSchedulerTest):
    scheduler_classes = (HeteroscedasticDDIMScheduler,)

    @pytest.mark.skipif(find_spec("torchsde") is None, reason="DPMSolverSDEScheduler, made here, needs torchsde")
    def test_compatibles(self) -> None:
        super().test_compatibles()
