"""From values to one self-contained page on disk: the Jinja environment, and durations for people."""

import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from jeppa.report.saved import Scene

NBSP = "\N{NO-BREAK SPACE}"


def write_page(page: Path, template: str, **values: Any) -> Path:
    """Render a template to `page`, which appears whole or not at all; the same values give the same bytes."""
    html = _environment().get_template(template).render(**values)
    draft = page.with_name(f"{page.name}.tmp")
    draft.write_text(html, encoding="utf-8")
    os.replace(draft, page)
    return page


def duration(seconds: float) -> str:
    """A time span for people: `0.8 s`, `42 s`, `8 min 32 s`, `2 h 5 min`."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f}{NBSP}s"
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60}{NBSP}min"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("jeppa.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, by_label=_by_label)
    return environment


def _by_label(scenes: list[Scene]) -> list[tuple[str, list[str]]]:
    """Names of scenes under each label, in the order of appearance."""
    groups: dict[str, list[str]] = {}
    for scene in scenes:
        groups.setdefault(scene.label or "", []).append(scene.name)
    return list(groups.items())
