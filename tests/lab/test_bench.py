"""A ratio is measured in turn and written with its spread."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jeppa.cli import run
from jeppa.errors import ConfigError
from jeppa.lab import bench
from jeppa.lab.bench import BENCHES, Row, figure, fit_exponent, race, run_benches


class Watch:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr(bench.time, "perf_counter", lambda: self.now)

    def work(self, name: str, seconds: list[float]) -> bench.Work:
        left = iter(seconds)

        def run() -> None:
            self.order.append(name)
            self.now += next(left)

        return run


def test_a_race_takes_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch):
    """Red when the first, slow runs are counted, or the ratio is upside down."""
    watch = Watch(monkeypatch)
    row = race("r", watch.work("o", [99.0, 1.0, 2.0, 1.0]), watch.work("p", [99.0, 4.0, 4.0, 3.0]), 3, "note")
    assert (row.ratio, row.ratio_min, row.ratio_max) == (3.0, 2.0, 4.0)
    assert (row.ours_s, row.peer_s) == (1.0, 4.0)
    assert watch.order == list("opoppoop")


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
def test_an_exponent_is_that_of_the_power_law(power: float):
    sizes = [256**2, 512**2, 1024**2]
    row = fit_exponent("e", sizes, [3.0 * size**power for size in sizes], "told")
    assert row.ratio == pytest.approx(power, abs=1e-9)
    assert row.ratio_min == pytest.approx(row.ratio_max, abs=1e-9)


def test_every_row_is_on_disk_as_soon_as_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def rows(alternations: int) -> Iterator[Row]:
        yield figure("first", [1.0, 2.0, 4.0], "a figure")
        yield Row("second", 3.0, 2.0, 4.0, 0.5, 1.5, "a race")

    monkeypatch.setitem(BENCHES, "sd", rows)
    out = tmp_path / "bench.json"
    running = run_benches(["sd"], 5, out, "jeppa bench")
    next(running)
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == ["first"]
    list(running)
    first, second = json.loads(out.read_text())["rows"]
    assert (first["ratio"], first["ours_s"]) == (2.0, None)
    assert set(second) == {"name", "ratio", "ratio_min", "ratio_max", "ours_s", "peer_s", "note"}
    assert "| `second` | 3 [2, 4] | 0.5 | 1.5 | a race |" in out.with_suffix(".md").read_text()


def test_a_wrong_bench_is_one_line_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "bench.json")
    assert run(["bench", "--only", "vae", "--out", out]) == 2
    assert "bench is vae, but must be of sd, training, sampling, growth" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="alternations is 0"):
        run_benches(["sd"], 0, tmp_path / "x.json", "")
