"""The ledger of the claims: judge every test of a promise, show the verdicts as tables, compare them with old ones."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from results.claims import decoded, paths, stability
from results.claims.evidence import Evidence
from results.claims.folder import NotMeasuredError
from results.claims.promises import NOTES, PROMISES
from results.claims.trials import Finding, Trial
from results.record import CONFIDENCE, Json, describe_origin, join_lines, markdown_table

PLAIN = "nll"
"""The arm of the plain formula, whose verdict stands beside every other."""
ARMS_SHOWN = ("nll", "faithful", "band-faithful", "band-t-faithful", "band-t-faithful+lpips")


def judge_promise(promise: str, evidence: Evidence, report: Callable[[str], None]) -> list[Json]:
    """Run all tests of a promise; one entry for each, and a line to `report`."""
    entries = []
    for trial in PROMISES[promise]:
        began = time.perf_counter()
        entries.append(make_entry(promise, trial, [judge(trial, evidence, arm) for arm in trial.arms]))
        report(f"{promise}: {trial.name}: {entries[-1]['verdict']} ({time.perf_counter() - began:.0f} s)")
    return entries


def judge(trial: Trial, evidence: Evidence, arm: str) -> Finding:
    """The finding for one arm; if it cannot be measured, the finding says why."""
    try:
        return trial.judge(evidence, arm)
    except NotMeasuredError as reason:
        return Finding(arm, "", None, "not measured", str(reason))


def describe_setup() -> Json:
    """What was fixed before the run, for the record."""
    return {
        "confidence": CONFIDENCE,
        "decoded_images": decoded.IMAGES,
        "decoded_pixels": decoded.CROP,
        "path_pairs": paths.PAIRS,
        "path_pixels": paths.SIDE,
        "knob_images": paths.KNOB_IMAGES,
        "stability_runs": len(stability.list_jobs()),
        "stability_steps": stability.STEPS,
    }


def compare_with_old(old: list[Json], new: list[Json]) -> Iterator[str]:
    """One line for each arm and test: the old figure, the new one, and whether it lies in the old interval."""
    before = {(entry["test"], finding["arm"]): finding for entry in old for finding in entry["findings"]}
    for entry in new:
        for after in entry["findings"]:
            old_finding = before.get((entry["test"], after["arm"]))
            change = f"{show_figure(old_finding)} -> {show_figure(after)}: {judge_change(old_finding, after)}"
            yield f"{entry['test']}, {after['arm']}: {change}"


def make_entry(promise: str, trial: Trial, findings: list[Finding]) -> Json:
    """The entry of one test: its words, every finding, and the verdict on the promise."""
    verdicts = {finding.arm: finding.verdict for finding in findings}
    return {
        "promise": promise,
        "test": trial.name,
        "words": trial.words,
        "primary": trial.primary,
        "verdict": verdicts[trial.primary],
        "plain_formula": verdicts.get(PLAIN, "not measured"),
        "delivered_by": [arm for arm, verdict in verdicts.items() if verdict == "confirmed"],
        "findings": [simplify(asdict(finding)) for finding in findings],
    }


def simplify(value: Any) -> Any:
    """Floats of any nested value rounded to six digits, with None for NaN and infinity, as JSON wants them."""
    if isinstance(value, dict):
        return {key: simplify(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [simplify(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def render(record: Json) -> str:
    """The record as Markdown: a summary with one line for each test, then every arm shown with its figure."""
    setup = record["setup"]
    return join_lines([
        "# The promises, decided",
        "",
        f"{describe_origin(record)}, {record['seconds']:.0f} s. Tests and thresholds were "
        "written down before the runs (`claims/promises.py`). One rule: confirmed if the whole 95 % interval lies on "
        "the promised side, refuted if none of it does, undecided otherwise. Intervals are over images, each the mean "
        "over seeds, unless a test says otherwise; the range of the seeds stands beside them. Figures of pictures from "
        f"models: {setup['decoded_images']} held-out images, {setup['decoded_pixels']} pixels a side; paths: "
        f"{setup['path_pairs']} pairs at {setup['path_pixels']} pixels; all else: every image of the comparison.",
        "",
        render_summary(record["claims"]),
        "",
        *render_details(record["claims"]),
    ])  # fmt: skip


def render_summary(claims: list[Json]) -> str:
    """One line for each test."""
    headers = ["promise", "test", "verdict", "of", "plain formula (`nll`)", "confirmed for"]
    rows = [
        [
            entry["promise"], entry["test"], f"**{entry['verdict']}**", f"`{entry['primary']}`",
            entry["plain_formula"], ", ".join(entry["delivered_by"]) or "none",
        ]
        for entry in claims
    ]  # fmt: skip
    return markdown_table(headers, rows)


def render_details(claims: list[Json]) -> Iterator[str]:
    """A section for each promise, and in it a table for each test: arms of interest, and those it is confirmed for."""
    headers = ["arm", "against", "figure", "seeds", "images", "verdict", "note"]
    promise = ""
    for entry in claims:
        if entry["promise"] != promise:
            promise = entry["promise"]
            yield from (f"## {promise[0].upper()}{promise[1:]}", "")
            if promise in NOTES:
                yield from (NOTES[promise], "")
        yield from (f"**{entry['test']}**: {entry['words']}.", "")
        shown = (*ARMS_SHOWN, entry["primary"])
        findings = [one for one in entry["findings"] if one["arm"] in shown or one["verdict"] == "confirmed"]
        yield from (markdown_table(headers, [list_cells(finding) for finding in findings]), "")


def list_cells(finding: Json) -> list[str]:
    """The cells of one arm in the table of a test."""
    figure = finding["figure"]
    seeds, images = "", ""
    if figure is not None and figure["by_seed"]:
        values = [value for value in figure["by_seed"] if value is not None]
        seeds = f"{len(figure['by_seed'])}: {min(values):.4g} to {max(values):.4g}" if values else ""
        images = str(figure["images"] or "")
    against = f"`{finding['versus']}`" if finding["versus"] else ""
    note = finding["note"].replace("|", "/")
    return [f"`{finding['arm']}`", against, show_figure(finding), seeds, images, finding["verdict"], note]


def show_figure(finding: Json | None) -> str:
    """The figure of a finding with its interval; an end that is not known is a question mark."""
    if finding is None or finding["figure"] is None or finding["figure"]["value"] is None:
        return "none"
    figure = finding["figure"]
    lo, hi = ("?" if figure[end] is None else f"{figure[end]:.4g}" for end in ("lo", "hi"))
    return f"{figure['value']:.4g} [{lo}, {hi}]"


def judge_change(before: Json | None, after: Json) -> str:
    """Whether the new figure lies in the old interval, in words."""
    if before is None or before["figure"] is None or before["figure"]["lo"] is None:
        return "no old interval"
    if after["figure"] is None or after["figure"]["value"] is None:
        return "not measured now"
    is_inside = before["figure"]["lo"] <= after["figure"]["value"] <= before["figure"]["hi"]
    return "inside the old interval" if is_inside else "OUTSIDE the old interval"
