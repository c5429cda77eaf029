"""Paint: change a picture inside a brushed mask, and nowhere else."""

from typing import Any

import gradio as gr

from jeppa.errors import DataError
from jeppa.studio.first import PHOTOS
from jeppa.studio.models import reconstructs
from jeppa.studio.parts import (
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

SOFTEST = 10.0
"""Of the border; `jeppa.pipeline.regions` refuses more."""


def build_paint(page: Page, blocks: gr.Blocks) -> None:
    """Put the tab's parts on the page and tie them to the library."""
    t = page.texts
    ways = ["draw", "texture", "other"]
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            brush = part("brush", None, source=None, elem_id="paint-brush")
            status = status_line()
            result = part("viewer", None, elem_id="paint-result")
        with gr.Column(scale=1, min_width=300):
            picture = part("drop", {"builtin": PHOTOS[1]}, photos=list(PHOTOS), elem_id="paint-picture")
            model = page.selector(reconstructs, t("look.model"))
            way = Radio([(t(f"paint.{one}"), one) for one in ways], value="draw", label=t("paint.way"))
            strength = Slider(0, 3, value=1, step=0.05, label=t("paint.strength"), info=t("paint.strength_info"))
            softness = Slider(0, SOFTEST, value=1, step=0.1, label=t("paint.softness"), info=t("paint.softness_info"))
            seed = Number(0, precision=0, minimum=0, maximum=2**32 - 1, label=t("look.seed"))
            with gr.Group(visible=False) as other_box:
                other = part("drop", None, label_text=t("paint.other_drop"), elem_id="paint-other")
            go = gr.Button(t("paint.go"), variant="primary", elem_id="paint-go")
            undo_row(page, "paint", [model, way, strength, softness, seed])

    def source(chosen: Any) -> Updates:
        pixels = page.picture(chosen)
        token = page.keep(pixels, "original.png")
        value = {"token": token, "width": pixels.shape[1], "height": pixels.shape[0]}
        return {brush: gr.update(source=value, value=None), status: told(t("paint.ready"))}

    def paint(
        chosen: Any, painted: Any, name: str, how: str, k: float, soft: float, at: float, another: Any
    ) -> Updates:
        from jeppa.outputs import encode_settings
        from jeppa.pipeline import change_inside, draw_inside, texture_inside
        from jeppa.pipeline.regions import read_painted

        pixels = page.picture(chosen)
        kept = page.shelf.get(str(painted.get("token"))) if isinstance(painted, dict) else None
        if kept is None or kept.pixels is None:
            raise DataError(t("error.no_mask"))
        mask = read_painted(kept.pixels, pixels.shape[:2])
        k, soft = real(page, k, t("paint.strength"), 0.0, 3.0), real(page, soft, t("paint.softness"), 0.0, SOFTEST)
        number = whole(page, at, t("look.seed"), 0, 2**32 - 1)
        found = page.models.open(name)
        if how == "texture":
            edit = texture_inside(found, pixels, mask, k, number, soft)
        elif how == "other":
            edit = change_inside(found, pixels, mask, page.picture(another), soft)
        else:
            edit = draw_inside(found, pixels, mask, k, number, soft)
        about = encode_settings(model=name, way=how, strength=k, softness=soft, seed=number)
        token = page.keep(edit.pixels, "painted.png", dict(about))
        report = t("paint.report", inside=f"{edit.inside:,}", changed=f"{edit.changed:,}", outside=edit.changed_outside,
                   mean=f"{edit.mean_change:.1f}", most=edit.largest_change)  # fmt: skip
        value = {
            "original": page.keep(pixels, "original.png"),
            "layers": [{"token": token, "label": t("paint.layer")}],
            "show": token,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
        }
        return {result: value, status: told(report)}

    hidden: dict[str, Any] = {"show_progress": "hidden", "concurrency_id": "model"}
    shown = telling(page, status, source)
    blocks.load(shown, picture, [brush, status], api_name=False, **hidden)
    picture.change(shown, picture, [brush, status], api_name=False, **hidden)
    way.change(lambda how: gr.Group(visible=how == "other"), way, other_box, api_name=False, show_progress="hidden")
    go.click(telling(page, status, paint), [picture, brush, model, way, strength, softness, seed, other],
             [result, status], api_name="paint", **hidden)  # fmt: skip
