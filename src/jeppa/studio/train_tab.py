"""Train: start, watch, stop and resume a training, or watch one that a command line runs."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from jeppa.studio.curves import line_chart
from jeppa.studio.parts import (
    Dropdown,
    Number,
    Page,
    Radio,
    Updates,
    real,
    status_line,
    telling,
    told,
    undo_row,
    whole,
)
from jeppa.studio.runs import PRESETS, Trainings, as_typed, newest_sample, read_run_log, series, train_command
from jeppa.studio.shelf import Kept

SECONDS = 3.0
CURVES = (("psnr", "PSNR"), ("elbo_bpd", "ELBO"), ("rate_bpd", "rate"), ("loss", "loss"))


def build_train(page: Page, blocks: gr.Blocks, trainings: Trainings) -> None:
    """Put the tab's parts on the page and tie them to the run folder."""
    t = page.texts
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            status = status_line(t("train.empty"))
            first = as_typed(train_command("builtin:photos", "runs/studio", "small", 2000, 64))
            command = gr.HTML(_command(page, first), elem_classes="jp-command", apply_default_css=False)
            sample = gr.HTML("", apply_default_css=False)
            curves = gr.HTML("", elem_classes="jp-curve", apply_default_css=False)
            log = gr.HTML("", apply_default_css=False)
        with gr.Column(scale=1, min_width=300):
            data = gr.Textbox("builtin:photos", label=t("train.data"), info=t("train.data_info"))
            out = gr.Textbox("runs/studio", label=t("train.out"), info=t("train.out_info"))
            preset = Radio([(t(f"train.{one}"), one) for one in PRESETS], value="small", label=t("train.preset"))
            minutes = Number(10, minimum=0, label=t("train.minutes"), info=t("train.minutes_info"))
            with gr.Accordion(t("page.advanced"), open=False):
                steps = Number(2000, precision=0, minimum=1, label=t("train.steps"))
                resolution = Dropdown(["32", "64", "128", "256"], value="64", label=t("train.resolution"))
            start = gr.Button(t("train.start"), variant="primary", elem_id="train-start")
            with gr.Row():
                stop = gr.Button(t("train.stop"), variant="stop", min_width=90)
                resume = gr.Button(t("train.resume"), min_width=90)
            watch = gr.Button(t("train.watch"))
            use = gr.Button(t("train.use"))
            undo_row(page, "train", [data, out, preset, minutes, steps, resolution])
    timer = gr.Timer(SECONDS, active=False)
    asked = [data, out, preset, steps, resolution]
    shown = [status, command, sample, curves, log, timer]
    quiet: dict[str, Any] = {"show_progress": "hidden"}

    def arguments(values: Sequence[Any], again: bool) -> list[str]:
        folder, run, name, count, side = values
        number = whole(page, count, t("train.steps"), 1, 10**9)
        edge = int(side) if str(side).isdigit() else 64
        return train_command(str(folder), str(run), name, number, edge, again)

    def say_command(*values: Any) -> Updates:
        return {command: _command(page, as_typed(arguments(values, False)))}

    def begin(values: tuple[Any, ...], again: bool) -> Updates:
        *chosen, limit = values
        flags = arguments(chosen, again)
        trainings.start(str(chosen[1]).strip(), flags, real(page, limit, t("train.minutes"), 0.0, 1e6))
        return {
            command: _command(page, as_typed(flags)),
            status: told(t("train.started")),
            timer: gr.Timer(active=True),
        }

    def look_at(run: str) -> Updates:
        folder = str(run).strip()
        training = trainings.get(folder)
        lines = read_run_log(Path(folder)) if training is None or Path(folder).is_dir() else []
        last = lines[-1] if lines else {}
        going = training is not None and training.running
        if going:
            text = t("train.going", step=last.get("step", 0), speed=f"{last.get('images_per_second', 0.0):.1f}")
        elif training is None:
            text = t("train.watched", step=last.get("step", 0))
        else:
            text = t("train.ended", step=last.get("step", 0), code=training.process.returncode)
        failed = training is not None and not going and training.process.returncode not in (0, 143)
        updates: Updates = {
            status: told(text, "error" if failed else ""),
            curves: _curves(page, lines),
            log: ""
            if training is None
            else f'<pre class="jp-log" tabindex="0">{escape(chr(10).join(training.lines))}</pre>',
            timer: gr.Timer(active=going or training is None),
        }
        sheet = newest_sample(Path(folder))
        if sheet:
            token = page.shelf.put(Kept(sheet, "image/png", "samples.png"))
            alt = escape(t("train.sample_alt"))
            updates[sample] = f'<div class="jp-box"><img src="/shelf/{token}" alt="{alt}" class="jp-sheet"/></div>'
        return updates

    def stop_it(run: str) -> Updates:
        stopped = trainings.stop(str(run).strip())
        return {status: told(t("train.stopping" if stopped else "train.nothing"), "" if stopped else "error")}

    def use_it(run: str) -> Updates:
        name = str(run).strip()
        page.models.add(name)
        page.models.open(name)
        return {status: told(t("train.used", run=name)), **page.offered()}

    for control in asked:
        control.change(telling(page, status, say_command), asked, [command, status], api_name=False, **quiet)
    start.click(telling(page, status, lambda *values: begin(values, False)), [*asked, minutes], shown,
                api_name="train", **quiet)  # fmt: skip
    resume.click(telling(page, status, lambda *values: begin(values, True)), [*asked, minutes], shown,
                 api_name="resume", **quiet)  # fmt: skip
    stop.click(telling(page, status, stop_it), out, status, api_name="stop_training", queue=False, **quiet)
    watch.click(telling(page, status, look_at), out, shown, api_name="watch_run", **quiet)
    timer.tick(telling(page, status, look_at), out, shown, api_name=False, **quiet)
    lists = [one for one, _ in page.selectors]
    use.click(telling(page, status, use_it), out, [status, *lists], api_name="use_run", **quiet)
    blocks.load(page.offered, None, lists, api_name=False, **quiet)


def _command(page: Page, text: str) -> str:
    told_as = escape(page.texts("train.command"))
    return f'<div class="jp-box"><p class="jp-note">{told_as}</p><code>{escape(text)}</code></div>'


def _curves(page: Page, log: list[dict[str, Any]]) -> str:
    charts = []
    for key, name in CURVES:
        steps, values = series(log, key)
        if steps:
            title, table = page.texts(f"train.curve_{key}"), page.texts("page.table")
            charts.append(line_chart(title, page.texts("train.step"), steps, {name: values}, table))
    return "".join(charts)
