"""Line charts as SVG, with a table for whoever cannot see them."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 260, 56, 34, 12, 96
COLOURS = {"red": "#c0392b", "green": "#2e8b57", "blue": "#2f6fb4"}
OTHERS = ("#8c2981", "#c46a1b", "#3f7f86", "#6d6d2a")


def line_chart(
    title: str, x_label: str, xs: Sequence[float], lines: Mapping[str, Sequence[float]], as_table: str
) -> str:
    """HTML of a chart: `lines` by label over `xs`, of one length each.

    `as_table` names the table that goes with it. A label that ends in "|red", "|green" or "|blue" asks for that colour.
    """
    values = [value for line in lines.values() for value in line]
    low, high = min(values), max(values)
    if low - (high - low) <= 0.0 <= high + (high - low):
        low, high = (
            min(0.0, low),
            max(0.0, high),
        )  # where 0 is near; far off it would flatten the line
    high = high if high > low else low + 1.0
    first, last = min(xs), max(xs)
    across = (WIDTH - LEFT - RIGHT) / max(last - first, 1e-9)
    up = (HEIGHT - TOP - BOTTOM) / (high - low)

    def place(x: float, y: float) -> str:
        return f"{LEFT + (x - first) * across:.1f},{HEIGHT - BOTTOM - (y - low) * up:.1f}"

    parts = [_axes(low, high, first, last, up, x_label)]
    ends: list[float] = []
    for index, (label, line) in enumerate(lines.items()):
        name, _, asked = label.partition("|")
        colour = COLOURS.get(asked, OTHERS[index % len(OTHERS)])
        points = " ".join(place(x, y) for x, y in zip(xs, line, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        if len(line) == 1:
            at = place(xs[0], line[0]).split(",")
            parts.append(f'<circle cx="{at[0]}" cy="{at[1]}" r="3" fill="{colour}"/>')
        end = _free(HEIGHT - BOTTOM - (line[-1] - low) * up, ends)
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{end + 4:.1f}" style="fill:{colour}">{escape(name)}</text>')
    names = [label.partition("|")[0] for label in lines]
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in [x_label, *names])
    rows = "".join(
        f'<tr><th scope="row">{x:g}</th>{"".join(f"<td>{line[at]:.2f}</td>" for line in lines.values())}</tr>'
        for at, x in enumerate(xs)
        if len(xs) <= 24 or at % (len(xs) // 12) == 0 or at == len(xs) - 1
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg><details><summary>{escape(as_table)}</summary>'
        f'<table class="jp-table"><tr>{heads}</tr>{rows}</table></details></figure>'
    )


def _axes(low: float, high: float, first: float, last: float, up: float, x_label: str) -> str:
    parts = []
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        y = HEIGHT - BOTTOM - (value - low) * up
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    bottom = HEIGHT - BOTTOM + 18
    parts.append(f'<text x="{LEFT}" y="{bottom}">{first:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{bottom}" text-anchor="end">{last:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{bottom}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join(parts)


def _free(wanted: float, taken: list[float]) -> float:
    """A height for a label, 14 away from all others."""
    place = wanted
    while any(abs(place - one) < 14 for one in taken):
        place -= 14
    taken.append(place)
    return place
