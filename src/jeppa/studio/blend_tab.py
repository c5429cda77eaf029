"""Blend: the way from one picture to another, as a strip and as a loop."""

import io
import zipfile
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from jeppa.config import DDIMSettings, parse
from jeppa.data.decode import Pixels
from jeppa.studio.first import PHOTOS
from jeppa.studio.parts import (
    Dropdown,
    Page,
    Radio,
    Slider,
    Updates,
    part,
    status_line,
    telling,
    told,
    undo_row,
    whole,
)
from jeppa.studio.shelf import Kept

FRAMES = 9
MOST_FRAMES = 48
SIDES = (128, 256, 512)
METHODS = ("fade", "fuse", "morph")


def build_blend(page: Page, blocks: gr.Blocks) -> None:
    """Put the tab's parts on the page and tie them to the library."""
    t = page.texts
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            status = status_line()
            loop = gr.HTML("", elem_classes="jp-loop", apply_default_css=False)
            strip = part("gallery", hint=t("blend.empty"), elem_id="blend-strip")
        with gr.Column(scale=1, min_width=300):
            first = part(
                "drop", {"builtin": PHOTOS[0]}, photos=list(PHOTOS), label_text=t("blend.first"), elem_id="blend-first"
            )
            second = part(
                "drop",
                {"builtin": PHOTOS[3]},
                photos=list(PHOTOS),
                label_text=t("blend.second"),
                elem_id="blend-second",
            )
            model = page.selector(lambda name: True, t("look.model"))
            method = Radio([(t(f"blend.{one}"), one) for one in METHODS], value="fade", label=t("blend.method"))
            frames = Slider(2, MOST_FRAMES, value=FRAMES, step=1, label=t("blend.frames"))
            go = gr.Button(t("blend.go"), variant="primary", elem_id="blend-go")
            with gr.Accordion(t("page.advanced"), open=False):
                side = Dropdown([(f"{one}", str(one)) for one in SIDES], value="256", label=t("blend.side"))
                steps = Slider(1, 100, value=25, step=1, label=t("blend.steps"))
            undo_row(page, "blend", [model, method, frames, side, steps])

    def blend(a: Any, b: Any, name: str, way: Any, count: float, edge: str, ddim_steps: float) -> Iterator[Updates]:
        from jeppa.data.images import fit_square, to_pixels, to_x
        from jeppa.outputs import animation_bytes, encode_settings
        from jeppa.pipeline import between, even_shares

        number = whole(page, count, t("blend.frames"), 2, MOST_FRAMES)
        found = page.models.open(name)
        values = {"steps": whole(page, ddim_steps, t("blend.steps"), 1, 1000)}
        chosen = int(edge) if str(edge) in {str(one) for one in SIDES} else SIDES[1]
        resolution = found.resolution if way == "morph" else chosen
        settings = parse(DDIMSettings, {**values, "resolution": resolution}, t("page.settings"))
        size = found.side(resolution)
        first_x, second_x = (to_x(fit_square(page.picture(one), size)) for one in (a, b))
        about = {**settings.model_dump(mode="json"), "method": way, "model": name}
        yield {status: told(t("blend.started")), loop: ""}
        pictures: list[Pixels] = []
        items: list[dict[str, str]] = []
        shares = even_shares(number)
        for share, point in zip(shares, between(found, first_x, second_x, shares, way, settings), strict=True):
            pixels = to_pixels(point.mean[0])
            pictures.append(pixels)
            name_of = f"frame-{len(items):03d}.png"
            token = page.keep(pixels, name_of, dict(encode_settings(**about, share=share)))
            items.append(
                {"token": token, "label": f"{100 * share:.0f} %", "alt": t("blend.alt", share=f"{100 * share:.0f}")}
            )
            yield {
                strip: {"items": list(items), "columns": number},
                status: told(t("blend.step", done=len(items), total=number)),
            }
        round_trip = pictures + pictures[-2:0:-1]
        gif = page.shelf.put(Kept(animation_bytes(round_trip, "GIF"), "image/gif", "blend.gif"))
        lossless = page.shelf.put(
            Kept(animation_bytes(round_trip, "PNG", encode_settings(**about)), "image/png", "blend.png")
        )
        archive = page.shelf.put(Kept(_zipped(page, items), "application/zip", "frames.zip"))
        files = {"save_gif": gif, "save_png": lossless, "save_frames": archive}
        yield {
            loop: _loop(page, lossless, files),
            strip: {"items": items, "columns": number},
            status: told(t("blend.done", number=number)),
        }

    go.click(telling(page, status, blend), [first, second, model, method, frames, side, steps], [loop, strip, status],
             api_name="blend", show_progress="hidden", concurrency_id="model")  # fmt: skip


def _zipped(page: Page, items: list[dict[str, str]]) -> bytes:
    """The frames, each a PNG with its settings, in one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for item in items:
            kept = page.shelf.get(item["token"])
            if kept is not None:
                archive.writestr(kept.name, kept.content)
    return buffer.getvalue()


def _loop(page: Page, shown: str, files: dict[str, str]) -> str:
    """The animation with its files, by the key of what the link says."""
    links = "".join(
        f'<a class="jp-link" download href="/shelf/{token}">{escape(page.texts(f"blend.{key}"))}</a>'
        for key, token in files.items()
    )
    return (
        f'<div class="jp-box"><figure class="jp-animation"><img src="/shelf/{shown}" '
        f'alt="{escape(page.texts("blend.loop_alt"))}"/><figcaption class="jp-row">{links}</figcaption></figure></div>'
    )
