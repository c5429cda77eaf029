"""Look: a picture beside its reconstruction, and what the model is sure of in it."""

import threading
from dataclasses import dataclass
from typing import Any

import gradio as gr

from jeppa.data.decode import Pixels
from jeppa.studio.curves import line_chart
from jeppa.studio.first import LEVEL, PHOTOS, SIDE, LookFiles, make_look_files
from jeppa.studio.models import reconstructs
from jeppa.studio.parts import (
    Dropdown,
    Number,
    Page,
    Slider,
    Updates,
    part,
    real,
    status_line,
    telling,
    told,
    undo_row,
    whole,
)
from jeppa.studio.shelf import Kept

SIDES = (256, 512, 1024, 2048)
TRIPS = 10
FIRST = {"original": f"/look/{PHOTOS[0]}-{SIDE}.jpg", "layers": []}
"""What is there before a model is: the first photograph."""


@dataclass(frozen=True)
class _Parts:
    viewer: gr.HTML
    status: gr.HTML
    curve: gr.HTML
    texture: gr.Group
    draw: gr.Group


def build_look(page: Page, blocks: gr.Blocks) -> None:
    """Put the tab's parts on the page and tie them to the library."""
    t = page.texts
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            viewer = part("viewer", FIRST, sigma=60, elem_id="look-viewer")
            curve = gr.HTML("", elem_classes="jp-curve", apply_default_css=False)
        with gr.Column(scale=1, min_width=300):
            picture = part("drop", {"builtin": PHOTOS[0]}, photos=list(PHOTOS), elem_id="look-picture")
            status = status_line()
            model = page.selector(reconstructs, t("look.model"))
            with gr.Group() as draw:
                temperature = Slider(
                    0, 2, value=1, step=0.05, label=t("look.temperature"), info=t("look.temperature_info")
                )
                seed = Number(0, precision=0, minimum=0, maximum=2**32 - 1, label=t("look.seed"))
                again = gr.Button(t("look.draw"), variant="primary")
            with gr.Group(visible=False) as texture:
                k = Slider(0, 3, value=1, step=0.05, label=t("look.texture"), info=t("look.texture_info"))
                textured = gr.Button(t("look.texture_draw"))
            with gr.Group():
                trips = Slider(1, TRIPS, value=TRIPS, step=1, label=t("look.trips"), info=t("look.trips_info"))
                go = gr.Button(t("look.trips_go"))
            with gr.Accordion(t("page.advanced"), open=False):
                side = Dropdown([str(s) for s in SIDES], value=str(SIDE), label=t("look.side"))
                level = Slider(0.5, 0.99, value=LEVEL, step=0.01, label=t("look.level"), info=t("look.level_info"))
                beside = page.selector(reconstructs, t("look.beside"), value=None, info=t("look.beside_info"))
            undone = undo_row(page, "look", [model, temperature, seed, k, trips, side, level])
    parts = _Parts(viewer, status, curve, texture, draw)
    actions = _LookActions(page, parts)
    outputs = [viewer, status, curve, texture, draw]
    asked = [picture, model, side, level]
    hidden: dict[str, Any] = {"show_progress": "hidden", "concurrency_id": "model"}
    shown = telling(page, status, actions.show)
    blocks.load(shown, asked, outputs, api_name=False, **hidden)
    picture.change(shown, asked, outputs, api_name="look", **hidden)
    for control in (model, side, level):
        control.input(shown, asked, outputs, api_name=False, **hidden)
    again.click(telling(page, status, actions.draw), [*asked, viewer, temperature, seed], [*outputs, seed],
                api_name="draw_again", **hidden)  # fmt: skip
    textured.click(telling(page, status, actions.add_texture), [*asked, viewer, k, seed], [*outputs, seed],
                   api_name="texture", **hidden)  # fmt: skip
    go.click(telling(page, status, actions.trip), [*asked, viewer, trips], outputs, api_name="round_trips", **hidden)
    beside.input(telling(page, status, actions.put_beside), [*asked, viewer, beside], outputs, api_name=False, **hidden)
    for one in undone:
        one.then(shown, asked, outputs, api_name=False, **hidden)
    actions.seed = seed


class _LookActions:
    """One library call each."""

    def __init__(self, page: Page, parts: _Parts) -> None:
        self._page = page
        self._t = page.texts
        self._parts = parts
        self.seed: Any = None

    def show(self, chosen: Any, name: str, side: str, level: float) -> Updates:
        page, t, parts = self._page, self._t, self._parts
        level = real(page, level, t("look.level"), 0.01, 0.999)
        sheets = page.first.take(chosen, name, str(side), level) if page.first else None
        readout = Kept()
        if sheets is None:
            sheets, readout.look = make_look_files(page.models.open(name), self._pixels(chosen, side), name, level)
        else:
            # The values under the pointer need the model; whoever looks at the picture meanwhile does not wait for it.
            threading.Thread(target=self._read_out, args=(readout, chosen, name, side, level), daemon=True).start()
        size = {"width": sheets.width, "height": sheets.height}
        if sheets.sigma:
            text = t("look.done", **size, mean=f"{sheets.mean:.1f}", most=f"{sheets.most:.0f}")
        else:
            text = t("look.no_sigma", **size)
        return {
            parts.viewer: self._viewed(sheets, readout, level),
            parts.status: told(text),
            parts.curve: "",
            parts.texture: gr.Group(visible=sheets.texture),
            parts.draw: gr.Group(visible=bool(sheets.sigma)),
        }

    def _read_out(self, readout: Kept, chosen: Any, name: str, side: str, level: float) -> None:
        _, readout.look = make_look_files(self._page.models.open(name), self._pixels(chosen, side), name, level)

    def draw(
        self, chosen: Any, name: str, side: str, level: float, value: Any, temperature: float, seed: float
    ) -> Updates:
        page, t = self._page, self._t
        at = whole(page, seed, t("look.seed"), 0, 2**32 - 1)
        temperature = real(page, temperature, t("look.temperature"), 0.0, 2.0)
        pixels = self._pixels(chosen, side)
        from jeppa.outputs import encode_settings
        from jeppa.pipeline import draw_again

        drawn = draw_again(page.models.open(name), pixels, temperature, at)
        token = page.keep(drawn, f"draw-{at}.png", dict(encode_settings(model=name, temperature=temperature, seed=at)))
        return self._added(value, token, t("look.layer_draw", seed=at), at + 1)

    def add_texture(
        self, chosen: Any, name: str, side: str, level: float, value: Any, k: float, seed: float
    ) -> Updates:
        page, t = self._page, self._t
        at = whole(page, seed, t("look.seed"), 0, 2**32 - 1)
        k = real(page, k, t("look.texture"), 0.0, 3.0)
        from jeppa.outputs import encode_settings
        from jeppa.pipeline import with_texture

        drawn = with_texture(page.models.open(name), self._pixels(chosen, side), k, at)
        token = page.keep(drawn, f"texture-{at}.png", dict(encode_settings(model=name, texture=k, seed=at)))
        return self._added(value, token, t("look.layer_texture", k=f"{k:g}", seed=at), at + 1)

    def trip(self, chosen: Any, name: str, side: str, level: float, value: Any, count: float) -> Any:
        from jeppa.outputs import encode_settings
        from jeppa.pipeline import round_trips

        page, t, parts = self._page, self._t, self._parts
        pixels = self._pixels(chosen, side)
        wanted = whole(page, count, t("look.trips"), 1, TRIPS)
        made = []
        for trip in round_trips(page.models.open(name), pixels, wanted):
            made.append(trip)
            token = page.keep(
                trip.pixels, f"trip-{trip.number}.png", dict(encode_settings(model=name, round_trips=trip.number))
            )
            value = self._layer(value, token, t("look.layer_trip", number=trip.number))
            numbers = [float(one.number) for one in made]
            colours = {f"{t(f'viewer.{colour}')}|{colour}": [one.drift[at] for one in made]
                       for at, colour in enumerate(("red", "green", "blue"))}  # fmt: skip
            chart = line_chart(t("look.drift"), t("look.trips_axis"), numbers, colours, t("page.table")) + line_chart(
                t("look.delta_e"), t("look.trips_axis"), numbers, {"ΔE": [one.delta_e for one in made]}, t("page.table")
            )
            text = t("look.tripped", number=trip.number, count=wanted, delta_e=f"{trip.delta_e:.2f}")
            yield {parts.viewer: value, parts.curve: chart, parts.status: told(text)}

    def put_beside(self, chosen: Any, name: str, side: str, level: float, value: Any, other: str | None) -> Updates:
        if not other:
            return {}
        from jeppa.outputs import encode_settings
        from jeppa.pipeline import look

        mean = look(self._page.models.open(other), self._pixels(chosen, side)).reconstruction
        token = self._page.keep(mean, "beside.png", dict(encode_settings(model=other)))
        return self._added(value, token, self._t("look.layer_beside", model=other), None)

    def _pixels(self, chosen: Any, side: str) -> Pixels:
        from jeppa.data.images import fit_within

        longest = int(side) if str(side) in {str(one) for one in SIDES} else SIDE
        return fit_within(self._page.picture(chosen), longest)

    def _viewed(self, sheets: LookFiles, readout: Kept, level: float) -> dict[str, Any]:
        put, t = self._page.shelf.put, self._t
        recon = put(Kept(sheets.reconstruction, name="reconstruction.png"))
        maps = {} if not sheets.sigma else {
            "sigma": put(Kept(sheets.sigma, name="sigma.png")),
            "covered": put(Kept(sheets.missed, name="coverage.png")),
            "coverage": t("look.coverage", level=f"{100 * level:.0f}", share=f"{100 * sheets.share:.1f}"),
        }  # fmt: skip
        return {
            **maps,
            "original": put(Kept(sheets.original, name="original.png")),
            "layers": [{"token": recon, "label": t("look.layer_mean")}],
            "show": recon,
            "readout": put(readout),
            "level": level,
            "width": sheets.width,
            "height": sheets.height,
        }

    def _layer(self, value: Any, token: str, label: str) -> dict[str, Any]:
        before = value if isinstance(value, dict) else {}
        layers = [one for one in before.get("layers", []) if one.get("label") != label]
        return {**before, "layers": [*layers, {"token": token, "label": label}][-24:], "show": token}

    def _added(self, value: Any, token: str, label: str, next_seed: int | None) -> Updates:
        updates: Updates = {
            self._parts.viewer: self._layer(value, token, label),
            self._parts.status: told(self._t("look.added", label=label)),
        }
        return updates if next_seed is None else {**updates, self.seed: next_seed}
