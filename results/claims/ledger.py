"""From tests to tables: judge everything, write `claims.json` and `claims.md`, and compare a row with an old one."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from claims import decoded, paths, stability
from claims.compared import NotMeasuredError
from claims.evidence import Evidence
from claims.kinds import Finding, Trial
from claims.promises import NOTES, PROMISES
from claims.verdict import CONFIDENCE

PLAIN = "nll"
SHOWN = ("nll", "faithful", "band-faithful", "band-t-faithful", "band-t-faithful+lpips")

Json = dict[str, Any]


def judge_promise(promise: str, evidence: Evidence, say: Callable[[str], None]) -> list[Json]:
    """One entry for each test of a promise."""
    entries = []
    for trial in PROMISES[promise]:
        began = time.perf_counter()
        entries.append(_entry(promise, trial, [judge(trial, evidence, arm) for arm in trial.arms]))
        say(f"{promise}: {trial.name}: {entries[-1]['verdict']} ({time.perf_counter() - began:.0f} s)")
    return entries


def judge(trial: Trial, evidence: Evidence, arm: str) -> Finding:
    """The finding for one arm; what cannot be measured says why and stops nothing."""
    try:
        return trial.judge(evidence, arm)
    except NotMeasuredError as reason:
        return Finding(arm, "", None, "not measured", str(reason))


def write(record: Json, out: Path) -> None:
    """Write the record and, beside it, its tables."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    out.with_suffix(".md").write_text(table(record))


def setup() -> Json:
    """What was fixed before the run, for the record."""
    return {
        "confidence": CONFIDENCE,
        "decoded_images": decoded.IMAGES,
        "decoded_pixels": decoded.CROP,
        "path_pairs": paths.PAIRS,
        "path_pixels": paths.SIDE,
        "knob_images": paths.KNOB_IMAGES,
        "stability_runs": len(stability.jobs()),
        "stability_steps": stability.STEPS,
    }


def table(record: Json) -> str:
    """Markdown: a summary with one line for each test, then every shown arm with its figure."""
    return "\n".join([*_head(record), *_summary(record), *_details(record), ""])


def against_old(old: list[Json], new: list[Json]) -> Iterator[str]:
    """One line for each arm of a row: the old figure, the new one, and whether it lies in the old interval."""
    before = {(entry["test"], one["arm"]): one for entry in old for one in entry["findings"]}
    for entry in new:
        for one in entry["findings"]:
            was = before.get((entry["test"], one["arm"]))
            yield f"{entry['test']}, {one['arm']}: {_shown(was)} -> {_shown(one)}: {_inside(was, one)}"


def _entry(promise: str, trial: Trial, findings: list[Finding]) -> Json:
    verdicts = {finding.arm: finding.verdict for finding in findings}
    return {
        "promise": promise,
        "test": trial.name,
        "words": trial.words,
        "primary": trial.primary,
        "verdict": verdicts[trial.primary],
        "plain_formula": verdicts.get(PLAIN, "not measured"),
        "delivered_by": [arm for arm, verdict in verdicts.items() if verdict == "confirmed"],
        "findings": [_plain(asdict(finding)) for finding in findings],
    }


def _plain(value: Any) -> Any:
    """JSON without NaN, six digits."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _head(record: Json) -> list[str]:
    fixed = record["setup"]
    return [
        "# The promises, decided",
        "",
        f"`{record['command']}` at commit {record['commit']}, {record['seconds']:.0f} s. Tests and thresholds were "
        "written down before the runs (`claims/promises.py`). One rule: confirmed if the whole 95 % interval lies on "
        "the promised side, refuted if none of it does, undecided otherwise. Intervals are over images, each the mean "
        "over seeds, unless a test says otherwise; the range of the seeds stands beside them. Figures of pictures from "
        f"models: {fixed['decoded_images']} held-out images, {fixed['decoded_pixels']} pixels a side; paths: "
        f"{fixed['path_pairs']} pairs at {fixed['path_pixels']} pixels; all else: every image of the comparison.",
        "",
    ]


def _summary(record: Json) -> list[str]:
    lines = [
        "| promise | test | verdict | of | plain formula (`nll`) | confirmed for |",
        "|---|---|---|---|---|---|",
    ]
    for entry in record["claims"]:
        by = ", ".join(entry["delivered_by"]) or "none"
        lines.append(
            f"| {entry['promise']} | {entry['test']} | **{entry['verdict']}** | `{entry['primary']}` | "
            f"{entry['plain_formula']} | {by} |"
        )
    return [*lines, ""]


def _details(record: Json) -> Iterator[str]:
    promise = ""
    for entry in record["claims"]:
        if entry["promise"] != promise:
            promise = entry["promise"]
            yield from (f"## {promise[0].upper()}{promise[1:]}", "")
            if promise in NOTES:
                yield from (NOTES[promise], "")
        yield from (f"**{entry['test']}**: {entry['words']}.", "")
        yield from ("| arm | against | figure | seeds | images | verdict | note |", "|---|---|---|---|---|---|---|")
        for one in entry["findings"]:
            if one["arm"] in (*SHOWN, entry["primary"]) or one["verdict"] == "confirmed":
                yield _line(one)
        yield ""


def _line(one: Json) -> str:
    figure = one["figure"]
    seeds, images = "", ""
    if figure is not None and figure["by_seed"]:
        values = [value for value in figure["by_seed"] if value is not None]
        seeds = f"{len(figure['by_seed'])}: {min(values):.4g} to {max(values):.4g}" if values else ""
        images = str(figure["images"] or "")
    against = f"`{one['versus']}`" if one["versus"] else ""
    return (
        f"| `{one['arm']}` | {against} | {_shown(one)} | {seeds} | {images} | {one['verdict']} | "
        f"{one['note'].replace('|', '/')} |"
    )


def _shown(one: Json | None) -> str:
    if one is None or one["figure"] is None or one["figure"]["value"] is None:
        return "none"
    figure = one["figure"]
    lo, hi = ("?" if figure[end] is None else f"{figure[end]:.4g}" for end in ("lo", "hi"))
    return f"{figure['value']:.4g} [{lo}, {hi}]"


def _inside(was: Json | None, now: Json) -> str:
    if was is None or was["figure"] is None or was["figure"]["lo"] is None:
        return "no old interval"
    if now["figure"] is None or now["figure"]["value"] is None:
        return "not measured now"
    old = was["figure"]
    within = old["lo"] <= now["figure"]["value"] <= old["hi"]
    return "inside the old interval" if within else "OUTSIDE the old interval"
