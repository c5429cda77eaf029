"""Where the tested application says it is, and a picture to give it."""

import io

import numpy as np
from PIL import Image

PORT = 7999
ORIGIN = f"http://127.0.0.1:{PORT}"


def png(height: int = 24, width: int = 40, seed: int = 0) -> bytes:
    """A PNG of noise."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
