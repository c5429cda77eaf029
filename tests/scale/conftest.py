from pathlib import Path

import pytest
from folders import draw_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten of them; not to be written to."""
    return draw_pictures(tmp_path_factory.mktemp("pictures") / "data")
