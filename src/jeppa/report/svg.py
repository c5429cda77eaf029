"""Draw on matplotlib axes, get inline SVG that takes its colours and fonts from the page's style sheet.

matplotlib knows no CSS variables, so each colour role is drawn in a stand-in colour that is replaced in the
SVG: the same plot is legible on light and on dark paper.
"""

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

DASHES: tuple[Any, ...] = (
    "-",
    (0, (3, 1.6)),
    (0, (1, 1.4)),
    "-.",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
    (0, (1, 3)),
    (0, (6, 1.2, 3, 1.2)),
    (0, (2, 3)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
ARM_STYLES = len(MARKERS)
"""Arms that differ by colour, dash and marker; the next one starts again with the first style."""

ROLES = ("ink", "muted", "rule", *(f"arm-{style}" for style in range(ARM_STYLES)))
STAND_IN = {role: f"#0100{index:02x}" for index, role in enumerate(ROLES)}
SIZE = (4.8, 3.3)
SMALL_SIZE = (3.3, 2.5)

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jeppa",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "text.color": STAND_IN["ink"],
    "axes.labelcolor": STAND_IN["muted"],
    "axes.edgecolor": STAND_IN["rule"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": STAND_IN["rule"],
    "grid.linewidth": 0.5,
    "xtick.color": STAND_IN["rule"],
    "ytick.color": STAND_IN["rule"],
    "xtick.labelcolor": STAND_IN["muted"],
    "ytick.labelcolor": STAND_IN["muted"],
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}
MANY = 5
"""Above this many entries a legend goes below the axes, where it covers nothing."""


def svg(name: str, title: str, draw: Any, size: tuple[float, float] = SIZE) -> Markup:
    """Draw on fresh axes and return SVG whose colours, fonts and identifiers fit into the page.

    Args:
        name: identifier of the plot on the page: letters, digits and hyphens.
        title: what it shows, for those who cannot see it.
        draw: called with the axes.
        size: width and height in inches.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    for role, stand_in in STAND_IN.items():
        text = text.replace(stand_in, f"var(--{role})")
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {size[0] * 72:g} {size[1] * 72:g}">'
    # matplotlib escapes the texts that it draws; the titles of arms are the only ones not written here.
    return Markup(head + text[text.index(">") + 1 :])


def colour(style: int) -> str:
    """Stand-in for the colour of an arm."""
    return STAND_IN[f"arm-{style % ARM_STYLES}"]


def dash(style: int) -> Any:
    """Line style of an arm."""
    return DASHES[style % ARM_STYLES]


def marker(style: int) -> str:
    """Marker of an arm."""
    return MARKERS[style % ARM_STYLES]


def height_for(entries: int, size: tuple[float, float] = SIZE) -> tuple[float, float]:
    """A size with room for a legend of `entries` below the axes, if they are many."""
    rows = -(-entries // 3) if entries > MANY else 0
    return size[0], size[1] + 0.17 * rows


def legend(axes: Any, loc: str = "best") -> None:
    """A legend on the axes, or below them where it has many entries."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > MANY:
        axes.figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=3.0, fontsize=7.5)
    else:
        axes.legend(loc=loc)
