"""The Markdown of the oracle study: squared MMD of every sampler, and what the intervals decide."""

import math

import numpy as np
from scipy import stats

from results.record import (
    Json,
    describe_origin,
    join_lines,
    list_numbers,
    markdown_table,
    mean_interval,
    show_interval,
)

Runs = dict[str, list[list[float]]]
"""Squared MMD of each way: for each step count, one value for each seed."""

READING = [
    "Where the posterior of x0 is smooth (s = 0.3), the optimal variance leaves less than a quarter of plain DDIM's",
    "squared MMD at every step count, and the last draw has its part in that. Where it is sharp (s = 0.1), one",
    "Gaussian stands for a choice between points: drawn in the last step too, it wins at 4 and 6 steps, loses at 8 to",
    "15 and wins again at 50; without the last draw it beats plain DDIM by a fifth to a quarter at 4 to 15 steps and",
    "is level with it after that. eta 1 is worse than plain DDIM at every step count of both. A trained net (one",
    "training) does as well as the exact mean and variance at 4 and 6 steps, and from 8 on is behind it by 0.1 to 0.4",
    "thousandths.",
]


def render(record: Json) -> str:
    """The record as Markdown: tables of squared MMD in thousandths, and what they decide."""
    runs, about = record["squared_mmd"], record["machine"]
    lines = [
        "# What the variance is worth where the right answer is known",
        "",
        f"{describe_origin(record)}; {about['processor']}, one thread, torch "
        f"{about['torch']}. Eight Gaussians of deviation s on a circle, each coordinate of variance 1; our sampler, "
        "trailing, zero terminal SNR.",
        "",
        "All figures but ratios and the last table are **squared MMD × 1000** (unbiased, so it may fall below 0; RBF "
        f"kernels of bandwidth {list_numbers(record['bandwidths'])}, summed) between {record['samples']} "
        "samples and as many fresh data: mean ± half the 95 % t-interval over seeds "
        f"{record['seeds'][0]} to {record['seeds'][-1]}. A ratio is one of two squared MMDs with its 95 % interval "
        "(Fieller, paired by seed). A demand holds where the interval of the paired difference says so.",
        "",
        *READING,
    ]
    for name, floor in record["data_to_data"].items():
        lines += ["", f"## Exact mean and variance, {name}", "", render_runs(record, runs[name], "plain", "optimal")]
        lines += ["", f"Data to data: {show_mmd(floor)}.", "", *judge_demands(record, runs[name], "plain", "optimal")]
    pair = ("trained mean, plain", "trained mean and variance")
    lines += [
        "",
        f"## Trained at {next(iter(record['data_to_data']))}",
        "",
        render_runs(record, runs["trained"], *pair),
        "",
    ]
    lines += judge_demands(record, runs["trained"], *pair)
    lines += judge_net(record, runs["trained"][pair[1]], runs["trained"]["exact mean and variance"])
    headers = ["t", "exact Var[x0\\|zt], mean over zt", "largest", "bias of the trained", "its mean absolute error"]
    rows = [
        [row["t"], f"{row['exact']:.4f}", f"{row['largest']:.4f}", f"{row['bias']:+.1%}", f"{row['error']:.1%}"]
        for row in record["variance"]
    ]
    return join_lines([*lines, "", markdown_table(headers, rows)])


def render_runs(record: Json, runs: Runs, above: str, below: str) -> str:
    """A row for each step count: every way, and the ratio of two of them."""
    rows = []
    for place, steps in enumerate(record["steps"]):
        row = {name: values[place] for name, values in runs.items()}
        rows.append([steps, *(show_mmd(values) for values in row.values()), show_ratio(row[above], row[below])])
    return markdown_table(["steps", *runs, f"{above} / {below}"], rows)


def show_mmd(values: list[float]) -> str:
    """Mean and half the 95 % t-interval, in thousandths."""
    mean, _, high = mean_interval(values)
    return f"{1000 * mean:.2f} ± {1000 * (high - mean):.2f}"


def show_ratio(above: list[float], below: list[float]) -> str:
    """The ratio of two means with its interval, or what is known of it."""
    low, high = ratio_interval(above, below)
    if math.isnan(low):
        return "both within noise of 0"
    if math.isinf(high):
        return f"at least {low:.1f}"
    return show_interval(float(np.mean(above) / np.mean(below)), (low, high), ".1f")


def judge_demands(record: Json, runs: Runs, above: str, below: str) -> list[str]:
    """The two demands on the variance, decided by the intervals of paired differences."""
    pairs = dict(zip(record["steps"], zip(runs[above], runs[below], strict=True), strict=True))

    def is_lower(steps: int, factor: float) -> bool:
        return mean_interval([a - factor * b for a, b in zip(*pairs[steps], strict=True)])[1] > 0.0

    name = f"{below} against {above}"
    return [
        show_verdict(f"{name}, at least 2 times lower at 4 and 6 steps", [n for n in (4, 6) if not is_lower(n, 2.0)]),
        show_verdict(f"{name}, lower at every step count to {max(pairs)}", [n for n in pairs if not is_lower(n, 1.0)]),
    ]


def judge_net(record: Json, learned: list[list[float]], exact: list[list[float]]) -> list[str]:
    """The two demands on the trained net: its variance, and its squared MMD at few steps."""
    wrong = [row["t"] for row in record["variance"] if row["error"] > 0.25]
    ratios = {n: ratio_interval(*pair) for n, *pair in zip(record["steps"], learned, exact, strict=True) if n in (4, 6)}
    unlike = [n for n, (low, high) in ratios.items() if not 0.75 < low <= high < 1.25]
    return [
        show_verdict("trained Var[x0\\|zt] within 25 % of the exact one", wrong),
        show_verdict("its squared MMD within 25 % of that of the exact ones at 4 and 6 steps", unlike),
    ]


def show_verdict(demand: str, failures: list[int]) -> str:
    """A demand, and whether it holds; `failures` are the timesteps or step counts at which it does not."""
    verdict = f"does not hold** (not at {list_numbers(failures)})" if failures else "holds**"
    return f"- {demand}: **{verdict}"


def ratio_interval(above: list[float], below: list[float]) -> tuple[float, float]:
    """95 % interval of the ratio of two means over the same seeds (Fieller); inf where the lower may be 0.

    Both ends are nan where the upper mean may be 0 too.
    """
    n, (p, q) = len(above), (np.mean(above), np.mean(below))
    (vp, cov), (_, vq) = np.cov(above, below) * stats.t.ppf(0.975, n - 1) ** 2 / n
    if p**2 <= vp:
        return math.nan, math.nan
    a, b, c = q**2 - vq, p * q - cov, p**2 - vp
    root = math.sqrt(b**2 - a * c)
    return ((b - root) / a, (b + root) / a) if a > 0 else (c / (b + root), math.inf)
