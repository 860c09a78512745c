"""How the pages look: one theme, one style sheet, one script; all of it from this machine."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradio.themes import Base

_SYSTEM = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> Base:
    """Quiet greys and one colour; the system's own fonts, so that none is fetched."""
    from gradio.themes import Base

    made = Base(primary_hue="teal", neutral_hue="slate", radius_size="md", font=_SYSTEM, font_mono=_MONO)
    return made.set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#12161d",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1a1f29",
        block_border_color="#e2e6ec",
        block_border_color_dark="#2c333f",
        block_label_text_weight="600",
        block_title_text_weight="600",
        button_large_text_size="*text_md",
        button_large_text_weight="550",
        button_large_padding="8px 14px",
        button_small_text_weight="500",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#eef1f4",
        button_secondary_background_fill_dark="#1f2530",
        button_secondary_border_color="#d5dae2",
        button_secondary_border_color_dark="#343c49",
        button_border_width="1px",
        block_label_text_size="*text_sm",
        block_title_text_size="*text_sm",
        block_info_text_size="*text_sm",
        body_text_color_subdued="#5b6474",
        body_text_color_subdued_dark="#a7b0bf",
        block_info_text_color="#5b6474",
        block_info_text_color_dark="#a7b0bf",
        input_background_fill="#ffffff",
        input_background_fill_dark="#12161d",
        input_border_width="1px",
        input_border_color="#d5dae2",
        input_border_color_dark="#343c49",
        button_primary_background_fill="#2f6f6a",
        button_primary_background_fill_hover="#275d59",
        button_primary_background_fill_dark="#2f6f6a",
        button_primary_text_color="#ffffff",
    )


def css() -> str:
    return _static("page.css")


def head() -> str:
    """What stands in the page's head."""
    return f"<script>{_static('page.js')}</script>"


def launch_options() -> dict[str, Any]:
    """What Gradio takes when the page is mounted rather than when it is built."""
    return {"theme": theme(), "css": css(), "head": head()}


def _static(name: str) -> str:
    return files("webui").joinpath("static", name).read_text(encoding="utf-8")
