"""Show the progress of long work: on a terminal a bar with images per second and time left, elsewhere plain lines."""

import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from jeppa.train import StepRecord

PLAIN_LINE_SECONDS = 10.0


def follow(title: str, records: Iterator[StepRecord], console: Console) -> StepRecord | None:
    """Run a training loop to its end and show its progress; returns its last record."""
    return _show_bar(title, records, console) if console.is_terminal else _print_lines(title, records, console)


def follow_count(title: str, done: Iterator[object], total: int, console: Console) -> None:
    """Run through `done`, of which there are `total`, and show how far it is."""
    if console.is_terminal:
        for _ in track(done, title, total, console=console):
            pass
        return
    began = last_line = time.monotonic()
    for count, _ in enumerate(done, 1):
        now = time.monotonic()
        if count == total or now - last_line >= PLAIN_LINE_SECONDS:
            last_line, left = now, (total - count) * (now - began) / count
            console.print(f"{title}: block {count}/{total}, {left:.0f} s left", highlight=False, soft_wrap=True)


def _show_bar(title: str, records: Iterator[StepRecord], console: Console) -> StepRecord | None:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
    )  # fmt: skip
    record, figures = None, ""
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=None, speed="", figures="")
        for record in records:
            figures = describe(record.figures) or figures
            speed = f"{record.images_per_second:.1f} images/s"
            progress.update(task, completed=record.step, total=record.total, speed=speed, figures=figures)
            if record.note:
                progress.console.print(f"{title}: {record.note}", markup=False, highlight=False)
    return record


def _print_lines(title: str, records: Iterator[StepRecord], console: Console) -> StepRecord | None:
    record, last_line = None, time.monotonic()
    for record in records:
        last = record.step == record.total
        if record.note:
            console.print(f"{title}: {record.note}", markup=False, highlight=False, soft_wrap=True)
        elif record.figures and (last or time.monotonic() - last_line >= PLAIN_LINE_SECONDS):
            last_line = time.monotonic()
            left = (record.total - record.step) * record.images / record.step / max(record.images_per_second, 1e-9)
            line = (
                f"{title}: step {record.step}/{record.total}, {record.images_per_second:.1f} images/s, "
                f"{left:.0f} s left, {describe(record.figures)}"
            )
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return record


def describe(figures: dict[str, float]) -> str:
    """The figures of a log line that matter to a person who watches the training."""
    units = {"psnr": "PSNR {:.2f} dB", "elbo_bpd": "{:.3f} bits/dim", "rate_bpd": "rate {:.3f}"}
    known = [text.format(figures[key]) for key, text in units.items() if key in figures]
    return ", ".join(known) if known or not figures else f"loss {figures['loss']:.4f}" if "loss" in figures else ""
