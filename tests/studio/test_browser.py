"""The studio in Chromium: each tab's main path in both languages, at two widths, by keyboard, and for axe-core.

`make browser` runs these and leaves screenshots in build/studio.
"""

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
from conftest import png

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


def opened(browser: Any, address: str, language: str, width: int = 1400) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 1000}, reduced_motion="reduce")
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
    page.get_by_role("tab", name=TABS[language][index]).click()
    page.wait_for_timeout(300)


@pytest.mark.parametrize("language", ["en", "ru"])
def test_each_tab_does_its_work_and_nothing_leaves_the_machine(browser: Any, address: str, language: str):
    page = opened(browser, address, language)
    page.set_input_files(
        "#look-picture input[type=file]", {"name": "noise.png", "mimeType": "image/png", "buffer": png(64, 96)}
    )
    page.wait_for_function("document.querySelector('#look-viewer .jp-stage img').naturalWidth === 96")
    page.locator("#look-viewer input[type=range]").nth(1).fill("60")
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


@pytest.mark.parametrize("width", [400, 1920])
def test_no_tab_is_wider_than_the_window(browser: Any, address: str, width: int):
    page = opened(browser, address, "ru", width)
    for index in range(5):
        if width < 1000 and index:
            break  # on a narrow page the other tabs stand in a menu
        open_tab(page, "ru", index)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
        shot(page, f"tab{index}-ru-{width}")
    page.close()


def test_look_and_generate_by_keyboard_alone(browser: Any, address: str):
    page = opened(browser, address, "en")

    def focus(selector: str) -> None:
        for _ in range(120):
            page.keyboard.press("Tab")
            if page.evaluate("(wanted) => document.activeElement.matches(wanted)", selector):
                return
        raise AssertionError(f"no way to {selector} by Tab")

    focus("#look-viewer .jp-frame")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#look-viewer .jp-readout table")
    focus("#look-viewer input[type=range]")
    page.keyboard.press("ArrowRight")
    assert "51" in page.locator("#look-viewer output").first.inner_text()
    page.get_by_role("tab", name="Look").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    focus("#generate-go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#generate-gallery .jp-card")
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
