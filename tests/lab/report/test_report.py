"""The page shows what was saved, all of it, and nothing from anywhere else."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from page_parts import Page
from PIL import Image
from saved_results import ARMS, NULL_REASON, SIDE, save_json, save_results

from jeppa.data.images import colour_map
from jeppa.errors import DataError
from jeppa.lab.report import write_report
from jeppa.lab.report.pages import format_duration
from jeppa.lab.report.pictures import PIXEL_BUDGET, colour_scale, embed_map, longest_side
from jeppa.lab.report.tables import format_number

SECTIONS = ("reconstructions", "calibration", "training", "samples", "numbers")


def render(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of a folder with every section."""
    folder = tmp_path_factory.mktemp("whole")
    save_results(folder)
    return folder, render(folder)


def test_page_needs_nothing_but_itself(whole):
    """Red when a picture is linked, a font or script is fetched, or matplotlib's header stays."""
    folder, page = whole
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)'\"]*)", html))
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html


def test_every_section_and_picture_is_there(whole):
    """Red when a section, an arm or a row of samples is dropped, or an image has no words."""
    _, page = whole
    assert [name for name in SECTIONS if name not in page.ids] == []
    expected = 1 + 2 * (1 + 3 * 2 + 1) + 2 * 3 + 1 + 3  # colour bar, rows, samples, estimates, frames
    assert len(page.images) == expected
    assert all(image["alt"] for image in page.images)
    for words in ("Sigma", "|Error|", "seed 12", "50 steps", "t = 999", "8 min 32 s", "A processor", "torch"):
        assert words in page.text


def test_embedded_pictures_are_the_saved_ones(whole):
    """Red when pictures are mixed up, shrunk without need, or stored with loss."""
    folder, page = whole
    uri = next(image["src"] for image in page.images if image["alt"] == "Reconstruction of dog.png, shared & co")
    embedded = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    saved = Image.open(folder / "reconstructions/dog.png.shared.recon.png")
    np.testing.assert_array_equal(np.asarray(embedded), np.asarray(saved))


def test_identifiers_are_unique(whole):
    """Two plots with the same clip path cut each other off. Red when identifiers get no prefix."""
    _, page = whole
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_plots_take_their_colours_from_the_page(whole):
    """Else they would vanish on dark paper. Red when a colour is drawn without a role."""
    folder, _ = whole
    html = (folder / "report.html").read_text(encoding="utf-8")
    plots = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(plots) == 6
    assert all("var(--muted)" in plot and not re.search(r"#[0-9a-f]{6}\b", plot) for plot in plots)


def test_names_are_escaped(whole):
    """Red when autoescape is off or a plot lets a title through."""
    folder, page = whole
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<cat>" not in html
    assert "<of>" not in html
    assert "& co" not in html
    assert "<cat>.png" in page.text
    assert "faithful & co" in page.text


def test_same_results_give_the_same_bytes(whole):
    """Red when a random identifier (no hash salt) or a date gets into a plot."""
    folder, _ = whole
    before = (folder / "report.html").read_bytes()
    assert write_report(folder).read_bytes() == before
    assert not list(folder.glob("*.tmp"))


def test_numbers_are_those_of_the_metrics(tmp_path):
    """Red when a figure is typed in, scaled wrongly, or taken from another arm."""
    save_results(tmp_path)
    before = render(tmp_path).text
    for words in ("27.62", "[26.30, 28.90]", "0.884", "88.8", "novel", "0.123"):
        assert words in before
    metrics = json.loads((tmp_path / "vae-faithful/metrics.json").read_text())
    save_json(tmp_path / "vae-faithful/metrics.json", {**metrics, "psnr": 31.5, "coverage_90": 0.5})
    after = render(tmp_path).text
    for words in ("31.50", "50.0", "difference of +3.88 dB"):
        assert words in after
        assert words not in before


def test_null_metrics_say_why(whole):
    """A dash with its reason where one arm lacks a value; a line below where all do. Red when it is dropped."""
    folder, page = whole
    html = (folder / "report.html").read_text(encoding="utf-8")
    escaped = NULL_REASON.replace("<", "&lt;").replace(">", "&gt;")
    assert html.count(f'<td title="{escaped}">–<sup>1</sup></td>') == 2
    assert html.count(f"<li>{escaped}</li>") == 1
    assert "LPIPS (VGG): weights are <missing>." in page.text
    assert "CRPS, AUSE, AUSE of an edge detector, An edge detector ranks them, Size of sigma: absent" in page.text


@pytest.mark.parametrize(
    "name",
    [
        "report.json",
        "vae-shared/metrics.json",
        "vae-fixed/log.jsonl",
        "diffusion/log.jsonl",
        "reconstructions/dog.png.original.png",
        "reconstructions/dog.png.faithful.sigma.npy",
        "samples/5-1.png",
        "estimates/0.png",
        "interpolation/2.png",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_unusable_files_are_named_in_one_line(tmp_path, name, damage):
    """Red when a missing file is skipped, or another error than DataError gets out."""
    save_results(tmp_path)
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(b"{no\x00")
    with pytest.raises(DataError) as caught:
        write_report(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname"])
def test_files_outside_the_folder_are_refused(tmp_path, name):
    """Red when the check is dropped: a report.json from elsewhere must not pull in private files."""
    report = save_results(tmp_path)
    report["estimates"][0]["image"] = name
    save_json(tmp_path / "report.json", report)
    with pytest.raises(DataError, match="outside"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("values", "key"), [({}, "arms"), ({"arms": []}, "arms"), ({"arms": [{"arm": "a", "title": "A"}]}, r"arms\.0\.run")]
)
def test_broken_contract_names_the_key(tmp_path, values, key):
    """Red when pydantic's many lines get through."""
    save_json(tmp_path / "report.json", values)
    with pytest.raises(DataError, match=rf"report\.json: {key}: [^\n]*$"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("place", "right", "wrong"),
    [
        ((), "reconstructions", "reconstuctions"),
        ((), "calibration", "callibration"),
        (("arms", 0), "steps", "step"),
        (("calibration", "shared"), "predicted", "predictions"),
        (("reconstructions", 0, "arms", "shared"), "sigma", "sigmas"),
        (("interpolation",), "frames", "images"),
    ],
)
def test_a_misspelt_key_is_named_and_no_section_vanishes(tmp_path, place, right, wrong):
    """Red when unknown keys are ignored: the section would be missing from the page without a word."""
    report = save_results(tmp_path)
    part = report
    for key in place:
        part = part[key]
    part[wrong] = part.pop(right)
    save_json(tmp_path / "report.json", report)
    with pytest.raises(DataError, match=r"report\.json: [^\n]*$") as caught:
        write_report(tmp_path)
    assert {".".join(map(str, (*place, key))) for key in (right, wrong)} & set(str(caught.value).split(": "))


@pytest.mark.parametrize("section", ["leading", "reconstructions", "calibration"])
def test_an_arm_that_the_report_does_not_list_is_an_error(tmp_path, section):
    """Red when its pictures or curves are left out without a word."""
    report = save_results(tmp_path)
    misspelt = {
        "leading": "faithfull",
        "reconstructions": [
            {**row, "arms": {"faithfull": row["arms"]["faithful"]}} for row in report["reconstructions"]
        ],
        "calibration": {"faithfull": report["calibration"]["faithful"]},
    }
    save_json(tmp_path / "report.json", {**report, section: misspelt[section]})
    with pytest.raises(DataError, match=rf"{section} names 'faithfull', which is none of the arms faithful, shared"):
        write_report(tmp_path)


def test_arms_alone_make_a_page(tmp_path):
    """Red when any other section is required, or its heading stays without content."""
    report = save_results(tmp_path)
    metrics = {"psnr": None, "reasons": None}
    for arm in ARMS:
        save_json(tmp_path / f"vae-{arm}/metrics.json", metrics)
        (tmp_path / f"vae-{arm}/log.jsonl").write_text("")
    save_json(tmp_path / "report.json", {"arms": report["arms"]})
    page = render(tmp_path)
    assert [name for name in SECTIONS if name in page.ids] == ["numbers"]
    assert page.images == []
    assert "PSNR: saved as null without a reason." in page.text


@pytest.mark.parametrize(
    ("kept", "sections"),
    [
        (("reconstructions", "command", "machine"), ["reconstructions", "calibration", "training", "numbers"]),
        (("samples", "seconds", "created"), ["calibration", "training", "samples", "numbers"]),
        (("estimates", "data", "sample_seeds"), ["calibration", "training", "samples", "numbers"]),
        (("interpolation", "diffusion"), ["calibration", "training", "samples", "numbers"]),
    ],
)
def test_sections_do_not_need_each_other(tmp_path, kept, sections):
    """Red when one section needs another."""
    report = save_results(tmp_path)
    save_json(tmp_path / "report.json", {key: report[key] for key in {"arms", *kept}})
    page = render(tmp_path)
    assert [name for name in SECTIONS if name in page.ids] == sections


def test_colours_of_a_map_are_its_levels_on_the_scale():
    """Zero is the first colour, the top and all above it the last. Red when maps are scaled one by one."""
    scale = colour_scale([np.full((8, 8), 9.5, np.float32), np.zeros((1, 1), np.float32)])
    assert scale.top == 12
    assert scale.ticks == (0, 3, 6, 9, 12)
    levels = np.array([[0.0, 6.0, 12.0, 99.0]], np.float32)
    uri = embed_map(levels, scale, "a map").uri
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert np.asarray(image).tolist() == [[0, 128, 255, 255]]
    assert np.asarray(image.convert("RGB"))[0, 0].tolist() == [0, 0, 3]


def test_maps_of_the_page_and_of_the_command_line_have_the_same_colours():
    """Equal levels on equal scales look alike. Red when the page has a palette of its own."""
    levels = np.linspace(0.0, 12.0, 256, dtype=np.float32)[None]
    scale = colour_scale([np.full((8, 8), 12.0, np.float32)])
    uri = embed_map(levels, scale, "a map").uri
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), colour_map(levels, scale.top))


def test_shrinking_a_map_averages_levels():
    """Red when colours or indices are resized instead."""
    scale = colour_scale([np.full((1, 1), 100.0, np.float32)])
    levels = np.tile(np.array([[0.0, 300.0], [0.0, 0.0]], np.float32), (4, 4))
    image = Image.open(io.BytesIO(base64.b64decode(embed_map(levels, scale, "", side=4).uri.partition(",")[2])))
    assert image.size == (4, 4)
    assert (np.asarray(image) == round(75 / 100 * 255)).all()


def test_many_pictures_share_the_budget():
    """Red when the size of a picture does not depend on their number."""
    assert longest_side(1) == 512
    assert longest_side(0) == 512
    for count in (25, 60, 1000):
        assert longest_side(count) ** 2 * count <= PIXEL_BUDGET
    assert longest_side(200) > SIDE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.8 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (512, "8 min 32 s"), (7530, "2 h 5 min")],
)
def test_durations_are_for_people(seconds, text):
    assert format_duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


def test_numbers_have_a_true_minus_and_no_signed_zero():
    """Red when "-0.00" or a hyphen is printed."""
    assert [format_number(value, 2, signed=True) for value in (-0.004, 0.004, -1.5, 1.5)] == [
        "0.00",
        "0.00",
        "−1.50",
        "+1.50",
    ]


def test_sparsification_and_histograms_are_shown_where_they_were_saved(tmp_path):
    """Red when the optional curves are ignored, or asked of an arm without them."""
    report = save_results(tmp_path)
    before = render(tmp_path)
    report["calibration"]["faithful"] |= {
        "sparsification": {"removed": [0, 0.5], "by_sigma": [9, 4], "by_sobel": [9, 5], "oracle": [9, 1]},
        "pit": [0.05] * 20,
    }
    save_json(tmp_path / "report.json", report)
    after = render(tmp_path)
    added = {name for name in after.ids if name.startswith(("sparsification-", "pit-"))}
    assert added
    assert not any(name.startswith(("sparsification-1", "pit-1")) for name in added)
    assert not any(name.startswith(("sparsification-", "pit-")) for name in before.ids)
    assert "share of pixels removed" in after.text
    assert len(after.ids) == len(set(after.ids))
