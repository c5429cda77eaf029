"""Ten arms can be told apart on light and dark paper, by colour, dash and marker."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

import jeppa.lab.report
from jeppa.lab.contract import Comparison
from jeppa.lab.report import plots
from jeppa.lab.report.compare_tables import list_entries
from jeppa.lab.report.plots import STYLED
from jeppa.vae import LIKELIHOODS

CSS = Path(jeppa.lab.report.__file__).with_name("report.css")
# Machado, Oliveira and Fernandes 2009: no red, no green cones; linear RGB.
COLOUR_BLIND = (
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
)


@pytest.mark.parametrize("names", [STYLED, STYLED[::-1], (*STYLED[:5], "a", "b", "c", "d", "e")])
def test_ten_arms_have_ten_styles(names):
    """Red when an unknown arm takes the style of a known one, or a dash or a marker is used twice."""
    arms = list_entries(Comparison.model_validate({"arms": [{"arm": name, "title": name} for name in names]}))
    assert sorted(entry.style for entry in arms) == list(range(10))
    assert len({str(plots.dash(entry.style)) for entry in arms}) == 10
    assert len({plots.marker(entry.style) for entry in arms}) == 10
    assert next(entry.style for entry in arms if entry.arm == "faithful") == 0


def test_every_likelihood_has_a_style_of_its_own():
    """Red when the report does not know a likelihood, such as the flagship."""
    assert set(STYLED) == set(LIKELIHOODS)
    assert len({(arm.style.light, arm.style.dark) for arm in LIKELIHOODS.values()}) == len(LIKELIHOODS)


def test_arm_colours_differ_for_the_colour_blind_too():
    """On both papers, CIEDE2000 of every two arms, and contrast to the paper. Red for red beside green."""
    for sheet, styles in zip(CSS.read_text().split("@media")[:2], plots.arm_colours().split("@media"), strict=True):
        colours = np.array([rgb(styles, f"arm-{n}") for n in range(plots.ARM_STYLES)])
        paper = luminance(rgb(sheet, "paper"))
        for light in map(luminance, colours):
            assert (max(light, paper) + 0.05) / (min(light, paper) + 0.05) > 2.95
        for eye in (np.eye(3), *COLOUR_BLIND):
            seen = rgb2lab(encoded(np.clip(linear(colours) @ np.array(eye).T, 0.0, 1.0))[None])[0]
            assert min(deltaE_ciede2000(a[None], b[None])[0] for a, b in combinations(seen, 2)) > 11.0


def rgb(css: str, role: str) -> np.ndarray:
    code = re.search(rf"--{role}: #(\w{{6}})", css).group(1)
    return np.array([int(code[n : n + 2], 16) for n in (0, 2, 4)]) / 255


def linear(colour: np.ndarray) -> np.ndarray:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def luminance(colour: np.ndarray) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])
