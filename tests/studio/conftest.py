"""The studio's application on a tiny model, without a browser."""

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

if importlib.util.find_spec("gradio") is None:
    collect_ignore_glob = ["test_*.py"]

PORT = 7999
ORIGIN = f"http://127.0.0.1:{PORT}"


def png(height: int = 24, width: int = 40, seed: int = 0) -> bytes:
    """A PNG of noise."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def client(diffusion_folder: Path) -> Iterator[Any]:
    """A client of the application, as the browser is: its own host and origin."""
    from fastapi.testclient import TestClient

    from jeppa.studio.models import Models
    from jeppa.studio.server import make_app

    app = make_app(Models([str(diffusion_folder)], "exact"), PORT)
    with TestClient(app, base_url=ORIGIN, follow_redirects=False) as found:
        yield found
