"""Saved results of `jeppa compare` -> `compare.html`: one file, nothing from the net, nothing computed again."""

from pathlib import Path

from jeppa.report import compare_table
from jeppa.report.compare_answers import answers
from jeppa.report.compare_arms import UNMATCHED, Entry, entries
from jeppa.report.compare_pictures import contact_sheets
from jeppa.report.compare_plots import calibration_plots, difference_plots, read_logs, training_plots
from jeppa.report.compare_saved import Budget, Comparison, read_comparison
from jeppa.report.table import decimals
from jeppa.report.template import NBSP, write_page

PAGE = "compare.html"


def write_compare(folder: Path) -> Path:
    """Write `compare.html` beside the results saved in `folder`; the same results give the same bytes.

    Args:
        folder: holds `compare.json` and the files that it names, see `jeppa.report.compare_saved`.

    Returns:
        Path of the page.

    Raises:
        DataError: `compare.json` or a file that it names is missing or unusable; one line naming the file.
    """
    comparison = read_comparison(folder)
    arms = entries(comparison)
    # All files are read before any plot is drawn, so that a missing one is reported at once.
    logs = read_logs(folder, comparison)
    gallery = contact_sheets(folder, comparison, arms)
    paired = compare_table.paired_rows(comparison, {entry.arm: entry.label for entry in arms})
    metrics, recalibrated = compare_table.recalibration(arms)
    return write_page(
        folder / PAGE,
        "compare.html.j2",
        title=comparison.title,
        comparison=comparison,
        budget=comparison.budget,
        reference=_reference(comparison, arms),
        arms=arms,
        mark=UNMATCHED,
        rates=_rates(comparison),
        headlines=answers(comparison, arms, paired),
        main=compare_table.main_table(comparison, arms),
        differences=difference_plots(comparison, arms),
        paired=compare_table.paired_tables(paired),
        gallery=gallery,
        calibration=calibration_plots(comparison, arms),
        recalibrated_metrics=metrics,
        recalibrated=recalibrated,
        training=training_plots(logs, arms),
        table=compare_table.full_table(arms),
        facts=_facts(comparison.budget),
        models=list(zip(comparison.arms, arms, strict=True)),
    )


def _reference(comparison: Comparison, arms: list[Entry]) -> str:
    """Label of the reference arm, or its name where it is not among the arms; may be empty."""
    name = comparison.budget.reference or ""
    return next((entry.label for entry in arms if entry.arm == name), name)


def _rates(comparison: Comparison) -> list[tuple[str, str, bool | None]]:
    """Title, ratio to the rate of the reference and whether it matched, for each arm that was checked."""
    rates = comparison.budget.rates
    found = [(arm.title, rates[arm.arm]) for arm in comparison.arms if arm.arm in rates]
    return [(t, "–" if rate.ratio is None else decimals(rate.ratio, 3), rate.matched) for t, rate in found]


def _facts(budget: Budget) -> list[tuple[str, str]]:
    """What every arm was given, in words; only what was saved."""
    tolerance = budget.rate_tolerance
    facts = {
        "data": budget.data,
        "data fingerprint": budget.data_fingerprint,
        "preset": budget.preset,
        "optimizer steps": budget.steps,
        "crops seen": budget.images,
        "batch size": budget.batch_size,
        "resolution": budget.resolution and f"{budget.resolution} pixels",
        "seeds": ", ".join(map(str, budget.seeds)),
        "held-out pictures": budget.heldout_images,
        "rate tolerance": None if tolerance is None else f"±{decimals(100 * tolerance, 1)}{NBSP}%",
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]
