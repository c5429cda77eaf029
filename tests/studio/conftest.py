"""The studio's application on a tiny model, without a browser."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_origin import ORIGIN, PORT

if importlib.util.find_spec("gradio") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def client(diffusion_folder: Path) -> Iterator[Any]:
    """A client of the application, as the browser is: its own host and origin."""
    from fastapi.testclient import TestClient

    from jeppa.studio.models import Models
    from jeppa.studio.server import make_app

    app = make_app(Models([str(diffusion_folder)], "exact"), PORT)
    with TestClient(app, base_url=ORIGIN, follow_redirects=False) as found:
        yield found
