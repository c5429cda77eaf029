"""Generate: pictures from noise, watched as they form; a grid over a setting; rejection of the unsure ones."""

import json
import threading
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from jeppa.config import SamplerSettings, parse
from jeppa.errors import ConfigError
from jeppa.studio.models import draws
from jeppa.studio.parts import (
    Dropdown,
    Number,
    Page,
    Radio,
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

if TYPE_CHECKING:
    from jeppa.pipeline import Moment, Sample

MOST = 16
STEPS = 25
GUIDANCE = 2
MOST_STEPS = 1000
LAST_SEED = 2**32 - 1 - 10 * MOST
SHARES = {"fit": 0.1, "all": None, "none": 0.0}
AXES = ("steps", "eta", "temperature", "guidance")
KEYS = ("model", "label", "seed", "steps", "eta", "guidance", "variance", "temperature", "number", "keep", "texture")
"""The settings that a PNG carries and the page restores, in the order of the controls."""


def build_generate(page: Page, blocks: gr.Blocks) -> None:
    """Put the tab's parts on the page and tie them to the library."""
    t = page.texts
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            status = status_line()
            live = part("live", elem_id="generate-live")
            gallery = part("gallery", hint=t("generate.empty"), keeps=True, elem_id="generate-gallery")
        with gr.Column(scale=1, min_width=300):
            model = page.selector(draws, t("generate.model"))
            label = Dropdown([(t("generate.any"), "")], value="", label=t("generate.label"), allow_custom_value=True)
            with gr.Row(equal_height=True, elem_classes="jp-seed"):
                seed = Number(0, precision=0, minimum=0, maximum=2**32 - 1, label=t("generate.seed"), min_width=120)
                surprise = gr.Button(t("generate.surprise"), min_width=130)
            number = Slider(1, MOST, value=4, step=1, label=t("generate.number"))
            with gr.Row():
                go = gr.Button(t("generate.go"), variant="primary", min_width=120, elem_id="generate-go")
                stop = gr.Button(t("generate.stop"), variant="stop", min_width=90, elem_id="generate-stop")
            steps = Slider(1, 100, value=STEPS, step=1, label=t("generate.steps"))
            guidance = Slider(
                0, 8, value=GUIDANCE, step=0.1, label=t("generate.guidance"), info=t("generate.guidance_info")
            )
            keep = Slider(0.1, 1, value=1, step=0.05, label=t("generate.keep"), info=t("generate.keep_info"))
            with gr.Accordion(t("page.advanced"), open=False):
                eta = Slider(0, 1, value=0, step=0.05, label=t("generate.eta"), info=t("generate.eta_info"))
                variance = Radio([(t("generate.learned"), "learned"), (t("generate.none"), "none")], value="learned",
                                    label=t("generate.variance"))  # fmt: skip
                temperature = Slider(0, 1.5, value=1, step=0.05, label=t("generate.temperature"))
                texture = Slider(0, 3, value=0, step=0.05, label=t("generate.texture"), info=t("look.texture_info"))
                watch = Radio(
                    [(t(f"generate.watch_{key}"), key) for key in SHARES], value="fit", label=t("generate.watch")
                )
            with gr.Accordion(t("generate.grid"), open=False):
                axis = Dropdown([(t(f"generate.{one}"), one) for one in AXES], value="steps", label=t("generate.axis"))
                values = gr.Textbox("5, 10, 25, 50", label=t("generate.values"))
                grid = gr.Button(t("generate.grid_go"))
            with gr.Accordion(t("generate.restore"), open=False):
                dropped = part("drop", None, elem_id="generate-restore", label_text=t("generate.restore_drop"))
                found = gr.HTML("", apply_default_css=False)
                apply = gr.Button(t("generate.apply"))
            controls = [model, label, seed, steps, eta, guidance, variance, temperature, number, keep, texture]
            undo_row(page, "generate", [*controls, watch, axis, values])
    actions = _GenerateActions(page, live, gallery, status)
    hidden: dict[str, Any] = {"show_progress": "hidden"}
    outputs = [live, gallery, status]

    def labels(name: str, now: Any) -> Updates:
        known = page.models.open(name).labels
        value = now if now in known else ""
        return {label: Dropdown([(t("generate.any"), ""), *((one, one) for one in known)], value=value)}

    def first_label(name: str) -> Updates:
        return labels(name, next(iter(page.models.open(name).labels), ""))

    model.change(telling(page, status, labels), [model, label], [label, status], api_name=False, **hidden)
    blocks.load(telling(page, status, first_label), model, [label, status], api_name=False, **hidden)
    go.click(telling(page, status, actions.generate), [*controls, watch], outputs, api_name="generate",
             concurrency_id="model", **hidden)  # fmt: skip
    surprise.click(fn=None, js="() => Math.floor(Math.random() * 4294967295)", outputs=seed).then(
        telling(page, status, actions.generate),
        [*controls, watch],
        outputs,
        api_name=False,
        concurrency_id="model",
        **hidden,
    )
    stop.click(actions.stop, None, None, api_name="stop", queue=False)
    grid.click(telling(page, status, actions.grid), [*controls, axis, values], outputs, api_name="grid",
               concurrency_id="model", **hidden)  # fmt: skip
    dropped.change(telling(page, status, lambda chosen: {found: _shown(page, chosen)}), dropped, [found, status],
                   api_name=False, **hidden)  # fmt: skip
    apply.click(telling(page, status, lambda chosen: _restored(page, chosen, controls, status)), dropped,
                [*controls, status], api_name=False, **hidden)  # fmt: skip


class _GenerateActions:
    """One library call each."""

    def __init__(self, page: Page, live: gr.HTML, gallery: gr.HTML, status: gr.HTML) -> None:
        self._page = page
        self._t = page.texts
        self._live = live
        self._gallery = gallery
        self._status = status

    def stop(self, request: gr.Request) -> None:
        """Ask the session's drawing to end with what it has."""
        event = self._page.stops.get(str(request.session_hash))
        if event is not None:
            event.set()

    def generate(self, request: gr.Request, *values: Any) -> Iterator[Updates]:
        from jeppa.outputs import count_candidates
        from jeppa.pipeline import draw_live

        name, *controls, watch = values
        page, t = self._page, self._t
        settings, seed, number, keep, texture = self._settings(*controls)
        model = page.models.open(name)
        if keep < 1.0:
            model.check_variance("keep")
        seeds = range(seed, seed + count_candidates(number, keep))
        yield {self._status: told(t("generate.started")), self._live: None}
        event = threading.Event()
        session = str(request.session_hash)
        page.stops[session] = event
        moment: Moment | None = None
        try:
            for moment in draw_live(
                model, seeds, settings, SHARES.get(str(watch), SHARES["fit"]), event.is_set, texture
            ):
                if moment.estimates:
                    yield {self._live: self._forming(moment), self._status: told(self._progress(moment))}
        finally:
            page.stops.pop(session, None)
        assert moment is not None
        about = self._about(settings, name, keep, texture)
        items = self._items(moment.samples, about, number if keep < 1.0 else len(moment.samples))
        done = t("generate.stopped", step=moment.step, total=moment.total) if moment.stopped else t(
            "generate.done", number=len(moment.samples)
        )  # fmt: skip
        yield {self._live: None, self._gallery: {"items": items}, self._status: told(done)}

    def grid(self, name: str, *values: Any) -> Iterator[Updates]:
        from jeppa.pipeline import draw_grid

        *controls, axis, text = values
        page, t = self._page, self._t
        settings, seed, number, _, texture = self._settings(*controls)
        wanted = _numbers(page, text)
        items: list[dict[str, Any]] = []
        yield {self._status: told(t("generate.started")), self._live: None}
        rows = draw_grid(page.models.open(name), range(seed, seed + number), axis, wanted, settings, texture)
        for value, samples in rows:
            about = {**self._about(settings, name, 1.0, texture), axis: value}
            row = self._items(samples, about, len(samples))
            items += [{**one, "label": f"{t(f'generate.{axis}')} {value:g} · {one['label']}"} for one in row]
            yield {self._gallery: {"items": list(items), "columns": number},
                   self._status: told(t("generate.gridded", done=len(items), total=len(wanted) * number))}  # fmt: skip

    def _settings(
        self, label: Any, seed: Any, steps: Any, eta: Any, guidance: Any, variance: Any, temperature: Any, number: Any,
        keep: Any, texture: Any,
    ) -> tuple[SamplerSettings, int, int, float, float]:  # fmt: skip
        page, t = self._page, self._t
        strength = real(page, guidance, t("generate.guidance"), 0.0, 20.0)
        values = {
            "label": str(label) if label else None,
            "steps": whole(page, steps, t("generate.steps"), 1, MOST_STEPS),
            "eta": real(page, eta, t("generate.eta"), 0.0, 1.0),
            "guidance": strength if label else 1.0,
            "variance": variance,
            "temperature": real(page, temperature, t("generate.temperature"), 0.0, 10.0) if variance != "none" else 1.0,
        }
        settings = parse(SamplerSettings, values, t("page.settings"))
        first = whole(page, seed, t("generate.seed"), 0, LAST_SEED)
        count = whole(page, number, t("generate.number"), 1, MOST)
        share = real(page, keep, t("generate.keep"), 0.1, 1.0)
        return settings, first, count, share, real(page, texture, t("generate.texture"), 0.0, 3.0)

    @staticmethod
    def _about(settings: SamplerSettings, name: str, keep: float, texture: float) -> dict[str, Any]:
        """What a PNG of `jeppa generate` says of itself."""
        return {**settings.model_dump(mode="json"), "mask": None, "keep": keep, "texture": texture, "model": name}

    def _progress(self, moment: "Moment") -> str:
        return self._t("generate.step", step=moment.step, total=moment.total)

    def _forming(self, moment: "Moment") -> dict[str, Any]:
        from jeppa.data.images import colour_map, jpeg_bytes
        from jeppa.outputs import PREVIEW_SCALE

        page = self._page
        sigmas: Sequence[Any] = moment.sigmas or [None] * len(moment.estimates)
        pictures = [
            {
                "seed": seed,
                "estimate": page.shelf.put(Kept(jpeg_bytes(estimate), "image/jpeg", f"step-{moment.step}.jpg")),
                "sigma": None
                if sigma is None
                else page.keep(colour_map(sigma, PREVIEW_SCALE), f"sigma-{moment.step}.png"),
            }
            for seed, estimate, sigma in zip(moment.seeds, moment.estimates, sigmas, strict=True)
        ]
        return {"step": moment.step, "total": moment.total, "pictures": pictures, "scale": PREVIEW_SCALE}

    def _items(self, samples: "list[Sample]", about: dict[str, Any], number: int) -> list[dict[str, Any]]:
        """Cards of the gallery; with fewer kept than drawn, the surest first and the others marked as rejected."""
        from jeppa.outputs import LeastUncertain

        t = self._t
        chosen = LeastUncertain(number)
        for sample in samples:
            chosen.offer(sample.seed, sample.uncertainty or 0.0)
        seeds = chosen.seeds()
        order = samples
        if number < len(samples):
            order = sorted(samples, key=lambda one: (one.seed not in seeds, one.uncertainty or 0.0))
        return [self._item(one, about, one.seed not in seeds, t) for one in order]

    def _item(self, sample: "Sample", about: dict[str, Any], rejected: bool, t: Any) -> dict[str, Any]:
        from jeppa.data.images import to_pixels
        from jeppa.outputs import DIGITS, encode_settings

        score = None if sample.uncertainty is None else round(sample.uncertainty, DIGITS)
        settings = dict(encode_settings(**about, seed=sample.seed, uncertainty=score))
        label = t("generate.card", seed=sample.seed)
        return {
            "token": self._page.keep(to_pixels(sample.x), f"{sample.seed:06d}.png", settings),
            "label": label,
            "alt": t("generate.alt", seed=sample.seed, label=about.get("label") or t("generate.any")),
            "note": ""
            if score is None
            else t("generate.rejected" if rejected else "generate.unsure", score=f"{score:.3f}"),
            "rejected": rejected,
        }


def _numbers(page: Page, text: Any) -> list[float]:
    try:
        found = [float(part) for part in str(text).replace(";", ",").split(",") if part.strip()]
    except ValueError:
        found = []
    if not 1 <= len(found) <= MOST:
        raise ConfigError(page.texts("generate.bad_values", most=MOST))
    return found


def _shown(page: Page, chosen: Any) -> str:
    """The settings of a dropped PNG as a table."""
    settings = page.settings(chosen)
    if not settings:
        return f'<p class="jp-note">{escape(page.texts("generate.no_settings"))}</p>'
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in settings.items())
    return f'<table class="jp-table">{rows}</table>'


def _restored(page: Page, chosen: Any, controls: list[Any], status: gr.HTML) -> Updates:
    """The controls set to what a dropped PNG says; what it does not say stays."""
    settings = page.settings(chosen)
    updates: Updates = {}
    for key, control in zip(KEYS, controls, strict=True):
        try:
            value = json.loads(settings[key])
        except (KeyError, ValueError):
            continue
        if key == "model" and value not in page.models.names():
            continue
        updates[control] = "" if key == "label" and value is None else value
    if not updates:
        return {status: told(page.texts("generate.no_settings"), "error")}
    return {**updates, status: told(page.texts("generate.restored"))}
