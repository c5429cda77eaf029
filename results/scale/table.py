"""The record as Markdown."""

from results.record import Json, describe_machine, describe_origin, join_lines, markdown_table, show_range


def render(record: Json) -> str:
    """Tables of the parts that were measured."""
    lines = ["# Many processes and machines", "", f"{describe_origin(record)}; {describe_machine(record)}.", ""]
    lines += [
        "One core of this machine was busy with a training while these were measured, and the other was shared. The "
        "seconds of the cost table are those of the processor, which that does not change; ratios are of runs that "
        "alternate.",
        "",
    ]
    parts = record["parts"]
    for name, show in SECTIONS.items():
        if name in parts:
            lines += [*show(parts[name]), ""]
    return join_lines(lines[:-1])


def _show_checks(title: str, part: Json) -> list[str]:
    rows = [[key.replace("_", " "), f"{value:g}" if isinstance(value, float) else value] for key, value in part.items()]
    return [f"## {title}", "", markdown_table(["what", "seen"], rows)]


def _show_throughput(part: Json) -> list[str]:
    rates = part["pictures_per_second"]
    rows = [
        ["local, two processes of one thread, pictures a second", show_range(rates["local"], ".1f")],
        ["Ray, two workers of one thread, pictures a second", show_range(rates["ray"], ".1f")],
        ["ratio of Ray to local", show_range(part["ratios"], ".2f")],
    ]
    return ["## Throughput", "", markdown_table([f"{part['pictures']} crops", "mean [least, greatest]"], rows)]


def _show_cost(part: Json) -> list[str]:
    headers = [
        "side", "read and cut, ms", "encode, ms", "write, ms", "crop, kB", "latent on disk, kB",
        "core days for 10^9", "TB for 10^9",
    ]  # fmt: skip
    rows = [
        [
            row["side"], *(f"{1000 * row['seconds'][stage]:.2f}" for stage in ("read", "encode", "write")),
            f"{row['bytes_of_crop'] / 1000:.0f}", f"{row['bytes_of_latent'] / 1000:.2f}",
            f"{row['core_days_for_a_billion']:.0f}", f"{row['terabytes_for_a_billion']:.1f}",
        ]
        for row in part["rows"]
    ]  # fmt: skip
    return ["## What a picture costs", "", markdown_table(headers, rows)]


def _show_simulation(part: Json) -> list[str]:
    rows = [
        [row["per_shard"], show_range(row["shares"], ".3f"), f"{row['shards_for_a_billion']:,}"] for row in part["rows"]
    ]
    about = (
        f"{part['workers']} workers, {part['pictures']:,} pictures, {part['seconds_a_picture']} s each; "
        f"{100 * part['slow_share']:g} % of the workers are {part['slow_factor']:g} times slower; each fails "
        f"{part['failures_an_hour']:g} times an hour and comes back after {part['restart_seconds']:g} s."
    )
    table = markdown_table(["latents in a shard", "share of the ideal speed", "shards for 10^9"], rows)
    return ["## Simulation: the size of shards", "", about, "", table]


SECTIONS = {
    "ranks": lambda part: _show_checks("Two processes and one", part),
    "encode": lambda part: _show_checks("A worker and the command are killed", part),
    "sample": lambda part: _show_checks("Seeds in random order", part),
    "throughput": _show_throughput,
    "cost": _show_cost,
    "simulation": _show_simulation,
}
