"""One thread, few statistics, shared runs, and `--scoreboard FILE`: the table of what every row expected and saw."""

from collections.abc import Callable
from pathlib import Path

import pytest
import runs
import scoreboard
import torch


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jeppa.train.shown.STATISTICS_IMAGES", 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say what was observed; the last column but one of the scoreboard."""
    return lambda text: record_property("seen", text)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures to train on; not to be written to."""
    return runs.draw_photos(tmp_path_factory.mktemp("photos") / "photos")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scoreboard", type=Path, help="write the table of faults to this Markdown file")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(scoreboard.Scoreboard(config.getoption("--scoreboard")), "scoreboard")
