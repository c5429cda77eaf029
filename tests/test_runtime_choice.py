import json

import pytest
import torch
from torch import nn

from jeppa import runtime
from jeppa.runtime import EXACT, Runtime, choose_runtime


class Watch:
    """A clock that a pretended step moves on."""

    def __init__(self, seconds: dict[tuple[str, bool], float]) -> None:
        self.now, self.seconds, self.steps = 0.0, seconds, 0

    def step(self, runtime: Runtime) -> None:
        self.now += self.seconds[runtime.precision, runtime.channels_last] + 0.01 * runtime.flat_norms
        self.steps += 1


def choose(watch: Watch, monkeypatch: pytest.MonkeyPatch, native: bool = True) -> Runtime:
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: watch.now)
    monkeypatch.setattr(runtime, "_bf16_is_native", lambda: native)
    return choose_runtime("auto", nn.Linear(2, 2), "a step", watch.step)


ALL = {("fp32", False): 1.0, ("bf16", True): 2.0, ("bf16", False): 2.0, ("fp32", True): 2.0}


def test_the_clearly_fastest_runtime_is_taken_and_remembered(monkeypatch: pytest.MonkeyPatch):
    """Red when the choice is not written to the cache, or the slowest is taken."""
    watch = Watch({**ALL, ("bf16", True): 0.2, ("bf16", False): 0.5})
    first = choose(watch, monkeypatch)
    assert (first.precision, first.channels_last) == ("bf16", True)
    assert "5.0 times" in first.reason
    steps = watch.steps
    assert choose(watch, monkeypatch) == first
    assert watch.steps == steps


def test_a_narrow_win_keeps_plain_fp32(monkeypatch: pytest.MonkeyPatch):
    """Red when CLEAR_WIN is 1: a choice within the noise of the clock would differ from run to run."""
    chosen = choose(Watch({**ALL, ("fp32", True): 0.95}), monkeypatch)
    assert (chosen.precision, chosen.channels_last) == ("fp32", False)


def test_emulated_bf16_is_never_measured_on_the_model(monkeypatch: pytest.MonkeyPatch):
    watch = Watch(ALL)
    assert choose(watch, monkeypatch, native=False).precision == "fp32"
    assert watch.steps == 0


def test_a_configured_precision_is_taken_as_it_is():
    chosen = choose_runtime("bf16", nn.Linear(2, 2), "a step", lambda _: pytest.fail("measured"))
    assert (chosen.precision, chosen.memory_format) == ("bf16", torch.channels_last)


def test_exact_is_never_measured():
    assert choose_runtime("exact", nn.Linear(2, 2), "a step", lambda _: pytest.fail("measured")) == EXACT


def test_the_choice_depends_on_what_is_measured(monkeypatch: pytest.MonkeyPatch):
    """Red when the key leaves out the kind of work: a step of training would decide for sampling."""
    watch = Watch(ALL)
    choose(watch, monkeypatch)
    steps = watch.steps
    choose_runtime("auto", nn.Linear(2, 2), "other work", watch.step)
    assert watch.steps > steps


@pytest.mark.parametrize(
    "entry", ['"fp32"', '{"precision": "fp8", "channels_last": true}', '{"speed": 1}', "[]", "null"]
)
def test_a_spoilt_memory_is_measured_anew(entry: str, monkeypatch: pytest.MonkeyPatch):
    """Red when what stands in the file is taken as it is."""
    watch = Watch({**ALL, ("bf16", True): 0.2})
    first = choose(watch, monkeypatch)
    path = runtime._cache_file()
    (key,) = json.loads(path.read_text())
    path.write_text(f'{{"{key}": {entry}}}')
    steps = watch.steps
    assert choose(watch, monkeypatch) == first
    assert watch.steps > steps
