"""`jeppa studio`: the web page."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from jeppa.cli.core import Speed
from jeppa.errors import ConfigError


def studio(
    *,
    model: list[Path] | None = None,
    port: int | None = None,
    language: Literal["en", "ru"] | None = None,
    precision: Speed = "auto",
) -> None:
    """Open the studio, a web page on this machine to look, generate, blend, paint and train.

    Args:
        model: run folder, exported folder or shipped name to offer first; give it several times for several.
        port: to listen at on 127.0.0.1; 7860 or any free one unless given.
        language: of the page until another is chosen there; the browser's own unless given.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    missing = [name for name in ("gradio", "fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the studio needs {', '.join(missing)}: pip install 'jeppa[studio]', or make studio")
    from jeppa.studio.server import serve

    serve([str(one) for one in model or []], port, language, precision)
