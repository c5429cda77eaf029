"""What all tabs are made of: the page they stand on, the parts drawn by `studio.js`, and how errors are told."""

import inspect
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any

import gradio as gr
from PIL import Image

from jeppa.data.decode import Pixels
from jeppa.errors import ConfigError, DataError, JeppaError
from jeppa.studio.first import PHOTOS, FirstLook, photo
from jeppa.studio.models import Models
from jeppa.studio.shelf import Kept, Shelf
from jeppa.studio.texts import Texts

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Page:
    """What a tab is built with.

    Args:
        models: to choose from.
        shelf: for pictures.
        texts: of the page's language.
        first: the first picture, if another process looks at it.
        stops: one event for each session that makes something, by gradio's session hash.
        selectors: the lists of models on the page, each with what belongs into it.
    """

    models: Models
    shelf: Shelf
    texts: Texts
    first: FirstLook | None = None
    stops: dict[str, threading.Event] = field(default_factory=dict)
    selectors: list[tuple[Any, Callable[[str], bool]]] = field(default_factory=list)

    def selector(self, fits: Callable[[str], bool], label: str, **options: Any) -> Any:
        """A list of the models that fit, kept up to date when a run is added; the first is chosen unless told."""
        names = self.models.names(fits)
        made = Dropdown(names, label=label, **{"value": names[0], **options})
        self.selectors.append((made, fits))
        return made

    def offered(self) -> Updates:
        """The lists of models as they are now."""
        return {one: gr.update(choices=self.models.names(fits)) for one, fits in self.selectors}

    def keep(self, pixels: Pixels, name: str, settings: dict[str, str] | None = None) -> str:
        """Put a picture on the shelf as a PNG; returns its name there."""
        from jeppa.data.images import png_bytes

        return self.shelf.put(Kept(png_bytes(pixels, settings), "image/png", name))

    def picture(self, chosen: Any) -> Pixels:
        """The picture that a drop zone holds.

        Raises:
            DataError: there is none, or it has dropped off the shelf.
        """
        if isinstance(chosen, dict) and chosen.get("builtin") in PHOTOS:
            return photo(chosen["builtin"])
        kept = self.shelf.get(str(chosen.get("token"))) if isinstance(chosen, dict) else None
        if kept is None or kept.pixels is None:
            raise DataError(self.texts("error.no_picture"))
        return kept.pixels

    def settings(self, chosen: Any) -> dict[str, str]:
        """What the dropped PNG says of itself; empty for none."""
        kept = self.shelf.get(str(chosen.get("token"))) if isinstance(chosen, dict) else None
        return {} if kept is None else kept.settings


@lru_cache(maxsize=2 * len(PHOTOS))
def thumbnail(name: str, side: int = 112) -> bytes:
    """It as a small JPEG, made without torch, which is still being read when the page opens."""
    small = Image.fromarray(photo(name))
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _unchecked(make: Any) -> Any:
    """The component, without gradio's own check of values, which answers in English and names no field.

    What comes is checked by `whole`, `real` and the library.
    """

    def made(*values: Any, **options: Any) -> Any:
        component = make(*values, **options)
        component.preprocess = lambda payload: payload
        return component

    return made


Slider, Number, Dropdown, Radio = map(_unchecked, (gr.Slider, gr.Number, gr.Dropdown, gr.Radio))


def part(kind: str, value: Any = None, **props: Any) -> gr.HTML:
    """A part that `studio.js` draws: drop, viewer, live, gallery or brush."""
    return gr.HTML(
        value,
        html_template='<div class="jp-box"></div>',
        js_on_load=f"window.studio.mount('{kind}', element, props, trigger, watch)",
        apply_default_css=False,
        elem_classes=f"jp-{kind}-part",
        **props,
    )


def status_line(first: str = "") -> gr.HTML:
    """A line for what happens, spoken by screen readers."""
    return gr.HTML(
        told(first),
        html_template='<p role="status" aria-live="polite"></p>',
        js_on_load="window.studio.mount('status', element, props, trigger, watch)",
        apply_default_css=False,
        elem_classes="jp-status",
    )


def undo_row(page: Page, tab: str, controls: list[Any]) -> Any:
    """Buttons that undo and redo changes of these controls, all in the browser; returns their clicks."""
    t = page.texts
    with gr.Row(elem_classes="jp-undo"):
        buttons = [
            gr.Button(t(f"page.{name}"), size="sm", min_width=90, elem_id=f"{tab}-{name}") for name in ("undo", "redo")
        ]
    note = f"(...values) => window.studioSession.remember('{tab}', values)"
    gr.on(None, fn=None, js=note, inputs=controls, api_name=False)  # as the page loads, and after every change
    return [
        button.click(
            fn=None,
            js=f"(...values) => window.studioSession.travel('{tab}', {by}, values)",
            inputs=controls,
            outputs=controls,
            api_name=False,
        )
        for button, by in zip(buttons, (-1, 1), strict=True)
    ]


def told(text: str, kind: str = "") -> dict[str, str]:
    """A value of a status line; kind is empty or error."""
    return {"text": text, "kind": kind}


def telling(page: Page, status: gr.HTML, run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, which gives updates by component, once or step by step, with what a user can cause told in `status`."""

    def explain(error: JeppaError) -> Updates:
        own = str(error) == page.texts("error.no_picture")
        return {status: told(str(error) if own else page.texts.error(error), "error")}

    if inspect.isgeneratorfunction(run):

        @wraps(run)
        def steps(*values: Any) -> Iterator[Updates]:
            try:
                yield from run(*values)
            except JeppaError as error:
                yield explain(error)

        return steps

    @wraps(run)
    def once(*values: Any) -> Updates:
        try:
            updates: Updates = run(*values)
        except JeppaError as error:
            return explain(error)
        return updates

    return once


def whole(page: Page, value: Any, name: str, low: int, high: int) -> int:
    """A whole number within its range; gradio hands over whatever a client sent.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value != int(value):
        raise ConfigError(page.texts("error.number", name=name, low=low, high=high))
    if not low <= value <= high:
        raise ConfigError(page.texts("error.number", name=name, low=low, high=high))
    return int(value)


def real(page: Page, value: Any, name: str, low: float, high: float) -> float:
    """A number within its range; see `whole`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(page.texts("error.number", name=name, low=low, high=high))
    return float(value)
