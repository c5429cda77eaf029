"""The numbers at the top of a comparison: four questions of someone who trains a VAE, answered for one arm."""

from collections.abc import Iterator, Sequence

from jeppa.report.compare_arms import Entry
from jeppa.report.compare_saved import Comparison
from jeppa.report.compare_table import CODECS, PairedRow, clear_winner, ranking
from jeppa.report.files import number
from jeppa.report.table import Headline, decimals, metric_of, shown
from jeppa.report.template import NBSP

CODE_LENGTH = metric_of("elbo_bpd")


def answers(comparison: Comparison, arms: Sequence[Entry], paired: Sequence[PairedRow]) -> list[Headline]:
    """Which sigma, its picture, its map, its draw; those that were measured.

    The arm is the one with the shortest code length among those of matched rate; without one, no answers.
    """
    ranked = ranking(CODE_LENGTH, arms)
    if not ranked:
        return []
    lead = ranked[0]
    texts = {
        "elbo_bpd": ("Which sigma should I learn?", _shortest(comparison, arms, ranked)),
        "psnr": ("Does it hurt my picture?", _against_reference(comparison, lead, arms, paired)),
        "coverage_90": ("Can I trust its map?", " ".join(_trust(lead))),
        "gradient_energy_ratio_draw": ("How sharp is a drawn picture?", _sharpness(lead)),
    }
    cells = ((metric_of(key), shown(metric_of(key), lead.saved), *words) for key, words in texts.items())
    return [Headline(cell, metric.unit, name, text) for metric, cell, name, text in cells if cell]


def _shortest(comparison: Comparison, arms: Sequence[Entry], ranked: Sequence[Entry]) -> str:
    """Who needs the fewest bits, whether that is clear, and what lossless codecs need."""
    text = f"The shortest code length (ELBO) is that of {ranked[0].label}."
    if len(ranked) > 1:
        runner_up = shown(CODE_LENGTH, ranked[1].saved)
        place = "below the mean of" if clear_winner(CODE_LENGTH, arms) else "not clear of"
        text += f" Its interval lies {place} the runner-up, {ranked[1].label} ({runner_up.text if runner_up else '–'})."
    codecs = {CODECS.get(key, key): number(value.mean) for key, value in comparison.codecs.items()}
    known = [f"{name} {decimals(mean, CODE_LENGTH.digits)}" for name, mean in codecs.items() if mean is not None]
    return f"{text} Lossless codecs: {', '.join(known)}." if known else text


def _against_reference(comparison: Comparison, lead: Entry, arms: Sequence[Entry], paired: Sequence[PairedRow]) -> str:
    """PSNR of the arm against the reference, as it was compared on the same pictures and seeds."""
    reference = next((entry.label for entry in arms if entry.arm == comparison.budget.reference), None)
    if reference is None:
        return f"PSNR of {lead.label}."
    if reference == lead.label:
        return f"PSNR of {lead.label}, which is itself the reference."
    match = (row for row in paired if (row.metric.key, row.a, row.b) == ("psnr", lead.label, reference))
    row = next(match, None)
    if row is None or not row.cell.low:
        return f"PSNR of {lead.label}; it was not compared with {reference} pair by pair."
    verdict = "which leaves out zero" if row.clear else "which holds zero: no difference was found"
    return (
        f"PSNR of {lead.label}. Its difference to {reference}, pair by pair, is {row.cell.text}{NBSP}dB with "
        f"the interval {row.cell.low} to {row.cell.high}, {verdict}."
    )


def _trust(lead: Entry) -> Iterator[str]:
    """Coverage in words, and how sigma ranks the errors beside an edge detector."""
    yield f"of the true values lie inside the 90{NBSP}% interval of {lead.label}."
    ours = shown(metric_of("sigma_error_spearman"), lead.saved)
    edges = shown(metric_of("sigma_error_spearman_sobel"), lead.saved)
    if ours:
        yield f"Its sigma ranks the errors of blocks with a correlation of {ours.text}"
        yield f"(an edge detector: {edges.text})." if edges else "(1 is the perfect order)."


def _sharpness(lead: Entry) -> str:
    """Sharpness of a draw beside that of the mean."""
    mean = shown(metric_of("gradient_energy_ratio"), lead.saved)
    text = f"Gradient of a picture drawn from {lead.label} over that of the original; 1 is as sharp."
    return f"{text} Its mean has {mean.text}." if mean else text
