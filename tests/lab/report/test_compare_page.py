"""The page of a comparison shows what was saved, calls nothing best that is not, and breaks in one line."""

import base64
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from page_parts import Page
from PIL import Image
from saved_comparison import REASON, save_comparison
from saved_results import save_json, save_lines

from jeppa.errors import DataError
from jeppa.lab.contract import Comparison
from jeppa.lab.report import write_compare
from jeppa.lab.report.compare_tables import find_winner, list_entries
from jeppa.lab.report.pictures import embed_detail
from jeppa.lab.report.plots import average_seeds, extract_curve
from jeppa.lab.report.tables import metric_of

RECORDED = Path(__file__).parents[3] / "results/compare.json"
SECTIONS = ("main", "differences", "pictures", "calibration", "training", "numbers")


def render(folder: Path) -> Page:
    return Page(write_compare(folder).read_text(encoding="utf-8"))


def arms_of(means: list[float], aim_key: str, width: float, unmatched: tuple[int, ...] = ()):
    """Entries of arms that have one metric."""
    arms = [
        {"arm": str(n), "title": str(n), "metrics": {aim_key: {"mean": m, "ci95": [m - width, m + width]}}}
        for n, m in enumerate(means)
    ]
    rates = {str(n): {"matched": False} for n in unmatched}
    return list_entries(Comparison.model_validate({"arms": arms, "budget": {"rates": rates}}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of a folder with every section."""
    folder = tmp_path_factory.mktemp("whole")
    save_comparison(folder)
    return folder, render(folder)


def test_page_needs_nothing_but_itself(whole):
    """Red when a picture is linked or a font fetched, or two plots share an identifier."""
    folder, page = whole
    html = (folder / "compare.html").read_text(encoding="utf-8")
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"https?:|@import", html)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    plots = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(plots) == 2 + 2 + 3 + 3 + 4  # differences, calibration, sparsification, histograms, training
    assert not any(re.search(r"#[0-9a-f]{6}\b", plot) for plot in plots)


def test_every_section_and_picture_is_there(whole):
    """Red when a section, an arm or a kind of picture is dropped, or an image has no words."""
    _, page = whole
    assert [name for name in SECTIONS if name in page.ids] == list(SECTIONS)
    assert len(page.images) == 1 + 2 * (
        2 + 3 * 5 - 2
    )  # colour bar; original, its detail, five kinds, one arm without draws
    assert all(image["alt"] for image in page.images)
    for words in ("0, 1, 2", "96", "±3.0 %", "28800", "2 h 5 min", "torch version", "runs/novel-2", "0.0302"):
        assert words in page.text


def test_pictures_are_those_of_their_arm(whole):
    """Red when arms or kinds are mixed up in the contact sheet."""
    folder, page = whole
    for kind, arm in (("Mean", "shared"), ("Draw", "faithful")):
        uri = next(i["src"] for i in page.images if i["alt"] == f"{kind} of dog, {arm} & co")
        embedded = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        saved = Image.open(folder / f"pictures/dog.{arm}.{'recon' if kind == 'Mean' else 'draw'}.png")
        np.testing.assert_array_equal(np.asarray(embedded), np.asarray(saved))


def test_detail_of_a_draw_is_not_shrunk():
    """Red when noise is averaged away, or the crop is not the middle."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    uri = embed_detail(Image.fromarray(pixels), "").uri
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    np.testing.assert_array_equal(found, pixels[68:132, 118:182])


def test_texts_are_escaped(whole):
    """Red when autoescape is off or a plot lets a title through."""
    folder, page = whole
    html = (folder / "compare.html").read_text(encoding="utf-8")
    assert not re.search(r"<cat>|<sigma>|<nothing>|<missing>|& co", html)
    assert "which <sigma>" in page.text
    assert f"{REASON}" in page.text


def test_same_results_give_the_same_bytes(whole):
    folder, _ = whole
    before = (folder / "compare.html").read_bytes()
    assert write_compare(folder).read_bytes() == before
    assert not list(folder.glob("*.tmp"))


def test_unmatched_arm_is_marked_everywhere(whole):
    """Red when a plot, a table or a sheet shows it without the mark, or another arm with it."""
    folder, page = whole
    html = (folder / "compare.html").read_text(encoding="utf-8")
    body = html[html.index('id="main"') : html.index("<footer>")]
    names = re.findall(r"novel &amp; co(.{0,2})", body)
    assert len(names) > 10
    assert all(after.startswith(" †") for after in names)
    assert not re.search(r"(faithful|shared) &amp; co †", html)
    assert "novel & co (mean ratio 1.333)" in page.text


def test_numbers_are_the_saved_ones(whole):
    """Means, intervals, seeds, differences, codecs, recalibration. Red when one is typed in or scaled wrongly."""
    _, page = whole
    for words in (
        "27.15 [26.65, 27.65]",
        "27.14 · 27.15 · 27.16",
        "89.7 [87.7, 91.7]",
        "−0.500 [−0.620, −0.380]",
        "−0.400 · −0.500 · –",
        "PNG, lossless 6.543",
        "0.110 [0.080, 0.140] 0.046 [0.016, 0.076]",
        "zebra_count",
    ):
        assert words in page.text
    assert "LPIPS (VGG): weights are <missing>" in page.text


def test_answers_are_about_the_best_arm_of_matched_rate(whole):
    """The unmatched arm has the shortest code and must not be the answer. Red when rates are ignored."""
    _, page = whole
    assert "code length (ELBO) is that of faithful & co. Its interval lies below the mean of" in page.text
    assert "is +0.05 dB with the interval −0.21 to 0.31, which holds zero" in page.text


@pytest.mark.parametrize(
    ("key", "means", "width", "unmatched", "winner"),
    [
        ("psnr", [25.0, 27.0, 26.0], 0.9, (), "1"),
        ("psnr", [25.0, 27.0, 26.0], 1.1, (), None),
        ("psnr", [25.0, 27.0, 26.0], 0.9, (1,), "2"),
        ("elbo_bpd", [5.0, 6.0], 0.5, (), "0"),
        ("coverage_90", [0.905, 0.86], 0.02, (), "0"),
        ("coverage_90", [0.905, 0.88], 0.02, (), None),  # 0.925 is farther from the target than 0.88
        ("chi2", [1.3, 0.9], 0.05, (), "1"),
        ("rate_bpd", [0.1, 0.2], 0.01, (), None),
        ("unknown", [0.1, 0.2], 0.01, (), None),
        ("psnr", [25.0, math.nan], 0.1, (), None),
        ("psnr", [25.0], 0.1, (), None),
    ],
)
def test_best_is_only_what_is_clearly_best(key, means, width, unmatched, winner):
    """Red when a direction is turned, a target taken for a maximum, an interval or a rate ignored."""
    found = find_winner(metric_of(key), arms_of(means, key, width, unmatched))
    assert (found.arm if found else None) == winner


def test_emphasis_reaches_the_page(whole):
    """Red when the table emphasises the largest value, or nothing."""
    folder, _ = whole
    html = (folder / "compare.html").read_text(encoding="utf-8")
    html = html[html.index('id="main"') : html.index('id="differences"')]
    best = re.findall(r'class="best">([^<]*)', html)
    assert [text for text in best if text != "1.070"] == ["5.400", "0.110", "89.7"]  # a draw's sharpness


@pytest.mark.parametrize("damage", ["missing", "damaged"])
@pytest.mark.parametrize(
    "name",
    [
        "compare.json",
        "runs/novel-2/log.jsonl",
        "pictures/dog.png",
        "pictures/dog.faithful.draw.png",
        "pictures/cat.novel.sigma.npy",
        "pictures/cat.shared.error.npy",
    ],
)
def test_unusable_files_are_named_in_one_line(tmp_path, name, damage):
    """Red when a missing file is skipped, or another error than DataError gets out."""
    save_comparison(tmp_path)
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(b"{no\x00")
    with pytest.raises(DataError) as caught:
        write_compare(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "compare.html").exists()


def test_files_outside_the_folder_are_refused(tmp_path):
    comparison = save_comparison(tmp_path)
    comparison["gallery"][0]["arms"]["novel"]["draw"] = "../secret.png"
    save_json(tmp_path / "compare.json", comparison)
    with pytest.raises(DataError, match="outside"):
        write_compare(tmp_path)


@pytest.mark.parametrize(("values", "key"), [({}, "arms"), ({"arms": [{"arm": "a"}]}, r"arms\.0\.title")])
def test_broken_contract_names_the_key(tmp_path, values, key):
    save_json(tmp_path / "compare.json", values)
    with pytest.raises(DataError, match=rf"compare\.json: {key}: [^\n]*$"):
        write_compare(tmp_path)


@pytest.mark.parametrize(
    ("place", "right", "wrong"),
    [
        ((), "gallery", "galery"),
        ((), "paired", "pairs"),
        (("budget",), "rates", "rate"),
        (("budget", "rates", "shared"), "matched", "match"),
        (("arms", 1), "runs", "run"),
        (("arms", 1, "metrics", "psnr"), "ci95", "ci"),
        (("curves", "shared"), "pit", "pits"),
        (("gallery", 0, "arms", "faithful"), "draw", "drawn"),
    ],
)
def test_a_misspelt_key_is_named_and_no_section_vanishes(tmp_path, place, right, wrong):
    """Red when unknown keys are ignored: the section would be missing from the page without a word."""
    comparison = save_comparison(tmp_path)
    part = comparison
    for key in place:
        part = part[key]
    part[wrong] = part.pop(right)
    save_json(tmp_path / "compare.json", comparison)
    with pytest.raises(DataError) as caught:
        write_compare(tmp_path)
    assert f"compare.json: {'.'.join(map(str, (*place, wrong)))}: unknown key" in str(caught.value)


@pytest.mark.parametrize("section", ["budget.reference", "budget.rates", "reasons", "paired", "curves", "gallery"])
def test_an_arm_that_the_comparison_does_not_list_is_an_error(tmp_path, section):
    """Red when its pictures or figures are left out without a word."""
    comparison = save_comparison(tmp_path)
    part = comparison["budget"] if section.startswith("budget.") else comparison
    key = section.removeprefix("budget.")
    misspelt = {
        "reference": "sharde",
        "paired": [{**comparison["paired"][0], "a": "sharde"}],
        "gallery": [{**comparison["gallery"][0], "arms": {"sharde": comparison["gallery"][0]["arms"]["shared"]}}],
    }
    part[key] = misspelt.get(key) or {"sharde": part[key]["shared"]}
    save_json(tmp_path / "compare.json", comparison)
    with pytest.raises(DataError, match=rf"{section} names 'sharde', which is none of the arms shared, faithful"):
        write_compare(tmp_path)


def test_the_recorded_comparison_keeps_the_contract():
    """Red when a key of what `jeppa compare` once wrote is no longer known, or changes its value."""
    saved = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert Comparison.model_validate(saved).model_dump(mode="json", exclude_unset=True) == saved


def test_arms_alone_make_a_page(tmp_path):
    """Red when any other section is required, or its heading stays without content."""
    save_json(tmp_path / "compare.json", {"arms": [{"arm": "a", "title": "A"}]})
    page = render(tmp_path)
    assert [name for name in SECTIONS if name in page.ids] == ["main", "numbers"]
    assert page.images == []
    assert "absent from compare.json" in page.text


@pytest.mark.parametrize("section", ["budget", "paired", "codecs", "curves", "gallery", "reasons", "machine"])
def test_sections_do_not_need_each_other(tmp_path, section):
    """Red when one section needs another."""
    comparison = save_comparison(tmp_path)
    del comparison[section]
    save_json(tmp_path / "compare.json", comparison)
    gone = {"paired": "differences", "gallery": "pictures"}.get(section)
    page = render(tmp_path)
    assert [name for name in SECTIONS if name in page.ids] == [name for name in SECTIONS if name != gone]


def test_null_curves_and_numbers_leave_gaps(tmp_path):
    """Nulls are part of the contract. Red when one of them stops the page."""
    comparison = save_comparison(tmp_path)
    comparison["curves"] = {"faithful": {"reliability": None, "sparsification": None, "pit": None}, "novel": {}}
    comparison["paired"][0] |= {"difference": None, "ci95": None, "per_seed": [None]}
    comparison["arms"][0]["metrics"]["psnr"] = {"mean": math.nan, "ci95": [None, math.inf]}
    comparison["budget"]["rates"]["shared"] = {"ratio": None, "matched": None}
    comparison["gallery"][0]["arms"]["shared"] |= {"sigma": None, "error": None}
    (tmp_path / "compare.json").write_text(json.dumps(comparison))
    save_lines(tmp_path / "runs/faithful-0", [])
    render(tmp_path)


def test_mean_over_seeds_uses_common_steps():
    """Red when values of different steps are averaged, or a step that was logged twice counts twice."""
    first = [{"step": s, "psnr": float(s)} for s in (10, 20, 30, 30)]
    second = [{"step": s, "psnr": s + 2.0} for s in (20, 30, 40)]
    mean = average_seeds([extract_curve(log, "psnr", "", 0) for log in (first, second)])
    assert mean.steps.tolist() == [20, 30]
    assert mean.values.tolist() == [21, 31]
