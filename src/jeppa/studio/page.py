"""One page in one language: the head, five tabs, and the looks."""

import json
from html import escape

import gradio as gr

from jeppa.studio.blend_tab import build_blend
from jeppa.studio.first import FirstLook
from jeppa.studio.generate_tab import build_generate
from jeppa.studio.look_tab import build_look
from jeppa.studio.models import Models
from jeppa.studio.paint_tab import build_paint
from jeppa.studio.parts import Page
from jeppa.studio.runs import Trainings
from jeppa.studio.shelf import Shelf
from jeppa.studio.texts import Language, Texts
from jeppa.studio.train_tab import build_train

QUEUE = 16
"""Events that may wait; one more is told that the queue is full."""
SESSIONS = 64
"""Visits of which gradio keeps a copy of the page's settings, at 150 KB each; its own limit is 10,000."""
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace"]
NAMES: dict[Language, str] = {"en": "English", "ru": "Русский"}


def build_page(
    models: Models, shelf: Shelf, trainings: Trainings, language: Language, first: FirstLook | None = None
) -> gr.Blocks:
    """The page, ready to be mounted."""
    texts = Texts(language)
    page = Page(models, shelf, texts, first)
    with gr.Blocks(title=texts("page.title"), analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(_head(texts), apply_default_css=False)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(texts("page.look"), id="look"):
                build_look(page, blocks)
            with gr.Tab(texts("page.generate"), id="generate"):
                build_generate(page, blocks)
            with gr.Tab(texts("page.blend"), id="blend"):
                build_blend(page, blocks)
            with gr.Tab(texts("page.paint"), id="paint"):
                build_paint(page, blocks)
            with gr.Tab(texts("page.train"), id="train"):
                build_train(page, blocks, trainings)
    blocks.state_session_capacity = SESSIONS
    blocks.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)
    return blocks


def mount(app: object, blocks: gr.Blocks, language: Language, port: int) -> None:
    """Put the page under `/en` or `/ru` of an application."""
    texts = Texts(language)
    gr.mount_gradio_app(
        app,
        blocks,
        path=f"/{language}",
        server_name="127.0.0.1",
        server_port=port,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        theme=look_and_feel(),
        head=_scripts(texts),
    )


def look_and_feel() -> gr.themes.Base:
    """The theme: quiet greys with a trace of violet, one accent from magma, fonts of the system."""
    hue = gr.themes.Color(
        c50="#fbf3fa", c100="#f3dff0", c200="#e5bfdf", c300="#d29ac9", c400="#b567a9", c500="#9c3f90", c600="#8c2981",
        c700="#721f69", c800="#561850", c900="#3c1138", c950="#260a24",
    )  # fmt: skip
    theme = gr.themes.Base(primary_hue=hue, secondary_hue=hue, neutral_hue="stone", font=FONTS, font_mono=MONO,
                           text_size="md", radius_size="md", spacing_size="md")  # fmt: skip
    return theme.set(
        body_background_fill="var(--paper)", body_background_fill_dark="var(--paper)",
        body_text_color="var(--ink)", body_text_color_dark="var(--ink)",
        body_text_color_subdued="var(--soft)", body_text_color_subdued_dark="var(--soft)",
        block_background_fill="transparent", block_background_fill_dark="transparent",
        block_border_width="0px", block_shadow="none", block_padding="6px 0",
        block_label_text_color="var(--soft)", block_label_text_color_dark="var(--soft)",
        block_title_text_color="var(--ink)", block_title_text_color_dark="var(--ink)",
        block_info_text_color="var(--soft)", block_info_text_color_dark="var(--soft)",
        input_background_fill="var(--card)", input_background_fill_dark="var(--card)",
        input_border_color="var(--soft)", input_border_color_dark="var(--soft)", input_border_width="1px",
        border_color_primary="var(--rule)", border_color_primary_dark="var(--rule)",
        button_primary_background_fill="var(--accent)", button_primary_background_fill_dark="var(--accent)",
        button_primary_background_fill_hover="var(--ink)", button_primary_background_fill_hover_dark="var(--ink)",
        button_primary_text_color="var(--accent-ink)", button_primary_text_color_dark="var(--accent-ink)",
        button_primary_text_color_hover="var(--paper)", button_primary_text_color_hover_dark="var(--paper)",
        button_secondary_background_fill="var(--rule)", button_secondary_background_fill_dark="var(--rule)",
        button_secondary_text_color="var(--ink)", button_secondary_text_color_dark="var(--ink)",
        button_cancel_background_fill="var(--card)", button_cancel_background_fill_dark="var(--card)",
        button_cancel_text_color="var(--warm)", button_cancel_text_color_dark="var(--warm)",
        button_cancel_border_color="var(--warm)", button_cancel_border_color_dark="var(--warm)",
        slider_color="var(--accent)", slider_color_dark="var(--accent)",
        panel_background_fill="transparent", panel_background_fill_dark="transparent",
    )  # fmt: skip


def _head(texts: Texts) -> str:
    current = ' aria-current="page"'
    links = "".join(
        f'<a href="/{one}/" lang="{one}" hreflang="{one}"{current if one == texts.language else ""}>{name}</a>'
        for one, name in NAMES.items()
    )
    return (
        f'<a class="jp-skip" href="#tabs">{escape(texts("page.skip"))}</a><header class="jp-head">'
        f"<h1>{escape(texts('page.name'))}</h1><p>{escape(texts('page.about'))}</p>"
        f'<nav aria-label="{escape(texts("page.language"))}">{links}</nav></header>'
    )


def _scripts(texts: Texts) -> str:
    words = json.dumps(texts.browser(), ensure_ascii=False).replace("</", "<\\/")
    return (
        f'<link rel="stylesheet" href="/look/studio.css"/><script>document.documentElement.lang = "{texts.language}"; '
        f'window.studioWords = {words};</script><script src="/look/session.js"></script>'
        '<script src="/look/studio.js"></script>'
    )
