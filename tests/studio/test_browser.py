"""The studio in Chromium: each tab's main path in both languages, at four sizes, by keyboard, and for axe-core.

`make browser` runs these and leaves screenshots in build/studio.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_origin import png

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
CHROMIUM = shutil.which("chromium") or ""
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "studio"
AXE = ROOT / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
TABS = {
    "en": ("Look", "Generate", "Blend", "Paint", "Train"),
    "ru": ("Посмотреть", "Создать", "Соединить", "Закрасить", "Обучить"),
}
PARTS = ("#look-viewer", "#generate-go", "#blend-go", "#paint-go", "#train-start")
WAIT = 120_000


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a studio in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jeppa", "studio", "--port", str(port), "--precision", "exact"]
    process = subprocess.Popen(
        command, cwd=tmp_path_factory.mktemp("studio"), env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(f"{url}/en/", timeout=30).close()
            break
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.3)
    yield url
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.wait(60) == 0
    assert time.monotonic() - began < 30


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


def opened(browser: Any, address: str, language: str, width: int = 1400, height: int = 1000, scale: int = 1) -> Any:
    page = browser.new_page(
        viewport={"width": width, "height": height}, reduced_motion="reduce", device_scale_factor=scale
    )
    page.set_default_timeout(WAIT)
    page.foreign = []
    page.on(
        "request",
        lambda asked: page.foreign.append(asked.url) if not asked.url.startswith((address, "data:", "blob:")) else None,
    )
    page.failures = []
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.goto(f"{address}/{language}/")
    page.wait_for_selector("#look-viewer .jp-top")
    return page


def shot(page: Any, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def open_tab(page: Any, language: str, index: int) -> None:
    """Open a tab, from the menu where the page is too narrow for all; ends when its content is there."""
    tab = page.get_by_role("tab", name=TABS[language][index])
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=TABS[language][index])
    tab.click()
    page.locator(PARTS[index]).wait_for()


def number(page: Any, part: str, label: str) -> Any:
    """The number field of a slider in a tab."""
    return page.locator(f"{part} >> xpath=ancestor::*[@role='tabpanel']").get_by_label(f"number input for {label}")


@pytest.mark.parametrize("language", ["en", "ru"])
def test_each_tab_does_its_work_and_nothing_leaves_the_machine(browser: Any, address: str, language: str):
    page = opened(browser, address, language)
    shot(page, f"first-{language}")
    page.set_input_files(
        "#look-picture input[type=file]", {"name": "noise.png", "mimeType": "image/png", "buffer": png(64, 96)}
    )
    page.wait_for_function("document.querySelector('#look-viewer .jp-stage img').naturalWidth === 96")
    page.locator("#look-viewer input[type=range]").nth(2).fill("30")
    page.locator("#look-viewer .jp-stage").hover()
    page.wait_for_selector("#look-viewer .jp-readout table")
    shot(page, f"look-{language}-1400")

    open_tab(page, language, 1)
    page.click("#generate-go")
    page.wait_for_selector("#generate-gallery .jp-card")
    shot(page, f"generate-{language}-1400")

    open_tab(page, language, 2)
    page.click("#blend-go")
    page.wait_for_selector(".jp-animation img")
    assert page.locator(".jp-animation a").count() == 3
    shot(page, f"blend-{language}-1400")

    open_tab(page, language, 3)
    canvas = page.locator("#paint-brush canvas")
    canvas.wait_for()
    area = canvas.bounding_box()
    page.mouse.move(area["x"] + 60, area["y"] + 60)
    page.mouse.down()
    page.mouse.move(area["x"] + 200, area["y"] + 160, steps=4)
    page.mouse.up()
    page.wait_for_selector("#paint-brush .jp-box[data-ready]")
    page.click("#paint-go")
    page.wait_for_selector("#paint-result .jp-top")
    shot(page, f"paint-{language}-1400")

    open_tab(page, language, 4)
    shot(page, f"train-{language}-1400")
    assert page.foreign == []
    assert page.failures == []
    page.close()


@pytest.mark.parametrize(("width", "height", "scale"), [(400, 900, 1), (1920, 1080, 1), (350, 250, 4)])
def test_no_tab_is_wider_than_the_window(browser: Any, address: str, width: int, height: int, scale: int):
    """A telephone, a large screen, and a window of 1400 pixels at a zoom of 400 %."""
    page = opened(browser, address, "ru", width, height, scale)
    for index in range(5):
        open_tab(page, "ru", index)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), TABS["ru"][index]
        cut = page.evaluate(
            """() => [...document.querySelectorAll("button, label, p, h1, a")].filter((one) => one.offsetParent
            && getComputedStyle(one).overflowX === "hidden" && one.scrollWidth > one.clientWidth + 2).map((one) =>
            one.innerText)"""
        )
        assert cut == [], TABS["ru"][index]
        shot(page, f"tab{index}-ru-{width}")
    assert page.failures == []
    page.close()


def test_look_and_generate_by_keyboard_alone(browser: Any, address: str):
    page = opened(browser, address, "en")

    def focus(selector: str) -> None:
        for _ in range(120):
            page.keyboard.press("Tab")
            if page.evaluate("(wanted) => document.activeElement.matches(wanted)", selector):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none" or "range" in selector, selector
                return
        raise AssertionError(f"no way to {selector} by Tab")

    focus("#look-viewer .jp-frame")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#look-viewer .jp-readout table")
    focus("#look-viewer input[type=range]")
    page.keyboard.press("ArrowRight")
    assert "51" in page.locator("#look-viewer output").first.inner_text()
    focus("#look-picture .jp-picks button:nth-child(2)")
    before = page.locator("#look-viewer .jp-stage img").first.get_attribute("src")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "(src) => document.querySelector('#look-viewer .jp-stage img').getAttribute('src') !== src", arg=before
    )
    focus("[role=tab][aria-selected=true]")
    page.keyboard.press("ArrowRight")
    page.locator("#generate-go").wait_for()  # a tab is built when it is first opened
    focus("#generate-go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#generate-gallery .jp-card")
    page.close()


def test_settings_are_undone_and_come_back_from_a_picture(browser: Any, address: str):
    page = opened(browser, address, "en")
    open_tab(page, "en", 1)
    steps = number(page, "#generate-go", "Steps")
    number(page, "#generate-go", "Pictures").fill("1")
    page.wait_for_timeout(1000)  # changes of one control within 0.7 s are one step
    steps.fill("7")
    steps.press("Tab")
    page.wait_for_timeout(300)
    page.click("#generate-undo")
    page.wait_for_function("(one) => one.value === '25'", arg=steps.element_handle())
    page.click("#generate-redo")
    page.wait_for_function("(one) => one.value === '7'", arg=steps.element_handle())
    page.click("#generate-go")
    page.wait_for_selector("#generate-gallery .jp-card")
    address_of = page.locator("#generate-gallery .jp-card img").first.get_attribute("src")
    made = urllib.request.urlopen(address + address_of, timeout=30).read()
    page.locator(".jp-star").first.click()

    page.reload()
    page.wait_for_selector("#look-viewer .jp-top")
    open_tab(page, "en", 1)
    page.wait_for_selector("#generate-gallery .jp-star[aria-pressed=true]")  # the favourite is still there
    page.get_by_role("button", name="Settings from a picture").click()
    page.set_input_files(
        "#generate-restore input[type=file]", {"name": "made.png", "mimeType": "image/png", "buffer": made}
    )
    page.wait_for_selector(".jp-table")
    assert steps.input_value() == "25"  # a preview only
    page.get_by_role("button", name="Apply these settings").click()
    page.wait_for_function("(one) => one.value === '7'", arg=number(page, "#generate-go", "Steps").element_handle())
    assert page.failures == []
    page.close()


def test_a_place_in_line_and_a_way_out_of_it(browser: Any, address: str):
    pages = [opened(browser, address, "ru") for _ in range(2)]
    for page in pages:
        open_tab(page, "ru", 1)
        number(page, "#generate-go", "Шаги").fill("100")
        number(page, "#generate-go", "Сколько картинок").fill("16")
        page.locator("button:visible", has_text="Дополнительно").click()
        page.get_by_label("нет", exact=True).check()  # without previews there is little else to do for the page
        page.wait_for_timeout(500)
    for page in pages:
        page.click("#generate-go")
    first, second = pages
    first.wait_for_selector(".jp-line-bar[data-place='0'] button")
    second.wait_for_selector(".jp-line-bar[data-place='1'] button")
    shot(second, "line-ru")
    first.locator(".jp-line-bar button").click()
    second.wait_for_selector("#generate-gallery .jp-card")
    assert first.locator("#generate-gallery .jp-card").count() == 0
    for page in pages:
        assert page.failures == []
        page.close()


def test_the_example_client_of_the_documentation_makes_its_picture(address: str, tmp_path: Path):
    """Red when a name, an argument or an answer of the API changes and the page of the documentation does not."""
    page = (ROOT / "docs" / "studio.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    made = subprocess.run(
        [sys.executable, "-c", code, address], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert made.stdout.startswith("Done. Pictures: 1. seed 3")
    assert (tmp_path / "emoji.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("language", "said"), [("en", "is not a picture"), ("ru", "не картинка")])
def test_what_is_no_picture_is_told_in_the_language_of_the_page(browser: Any, address: str, language: str, said: str):
    page = opened(browser, address, language)
    page.set_input_files(
        "#look-picture input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.wait_for_selector("#look-picture .jp-note[data-kind=error]")
    assert said in page.locator("#look-picture .jp-note").inner_text()
    assert page.locator("#look-viewer .jp-top").is_visible()
    page.close()


def test_a_run_is_watched_while_it_goes_on(browser: Any, address: str, tmp_path: Path):
    """Of the log alone, as a command line writes it; `test_runs.py` watches a real training."""
    log = tmp_path / "log.jsonl"

    def write(upto: int) -> None:
        lines = [json.dumps({"step": step, "psnr": 10.0 + step, "loss": 1.0 / step}) for step in range(1, upto + 1)]
        log.write_text("\n".join(lines) + "\n", encoding="utf-8")

    write(5)
    page = opened(browser, address, "en")
    open_tab(page, "en", 4)
    page.get_by_label("Run folder").fill(str(tmp_path))
    page.get_by_role("button", name="Watch this run folder").click()
    page.get_by_text("Step 5 in this run folder").wait_for()
    assert page.locator(".jp-curve svg:visible").count() == 2
    write(9)
    page.get_by_text("Step 9 in this run folder").wait_for()
    shot(page, "watch-en")
    page.close()


@pytest.mark.parametrize("language", ["en", "ru"])
def test_axe_finds_no_serious_violation(browser: Any, address: str, language: str):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm install --prefix build/axe axe-core")
    page = opened(browser, address, language)
    for index in range(5):
        open_tab(page, language, index)
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        found = page.evaluate("async () => (await axe.run({ runOnly: ['wcag2a', 'wcag2aa'] })).violations")
        serious = [
            f"{one['id']}: {one['nodes'][0]['target']} {one['nodes'][0]['failureSummary']}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], TABS[language][index]
    page.close()
