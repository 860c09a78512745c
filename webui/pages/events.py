"""What a page's own buttons and fields send, and how a handler's fault reaches the page."""

from __future__ import annotations

import functools
import html
import logging
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import gradio as gr

from tuner.errors import TunerError

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger("webui")
_OURS = "This is a fault of tuner, not yours. What happened is in server.log, in the folder ui of the workspace."
P = ParamSpec("P")
R = TypeVar("R")

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Handlers that answer at once need no sign of waiting, and none is an API for others."""
CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (!button || !element.contains(button)) return;
  if (button.dataset.sure && !window.confirm(button.dataset.sure)) return;
  trigger('click', {do: button.dataset.do, id: button.dataset.id || ''});
});
"""
"""A button `data-do="open" data-id="..."` inside the component sends both; `data-sure` asks first."""
EDITS = """
element.addEventListener('change', (event) => {
  const field = event.target.closest('[data-edit]');
  if (!field || !element.contains(field)) return;
  const value = field.type === 'checkbox' ? String(field.checked) : field.value;
  trigger('edit', {id: field.dataset.edit, value: value});
});
"""
"""A field `data-edit="..."` sends its id and its value once it is left."""


SURE = "(first, ...rest) => window.confirm('{what}') ? [first, ...rest] : ['NOT SURE', ...rest]"
"""Asks before a button does what cannot be taken back; the handler's first value is `NOT_SURE` where it shall not."""
NOT_SURE = "NOT SURE"


def panel(value: str = "", *, elem_id: str | None = None, js_on_load: str | None = None) -> gr.HTML:
    """HTML of our own templates, in our own style."""
    return gr.HTML(value, elem_id=elem_id, js_on_load=js_on_load, apply_default_css=False)


def told(event: gr.EventData, key: str) -> str:
    """One text of an event. It comes from a browser, so it may be anything; what is no text counts as none."""
    data = getattr(event, "_data", None)
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""


def fault(error: TunerError) -> gr.Error:
    """An expected fault as the page says it. Gradio takes the text for HTML, so it is escaped here."""
    text = html.escape(error.message) + (f"<br><small>{html.escape(error.hint)}</small>" if error.hint else "")
    return gr.Error(text, title="That did not work", duration=12, print_exception=False)


def guarded(handler: Callable[P, R]) -> Callable[P, R]:
    """The handler, with every expected fault said on the page."""

    @functools.wraps(handler)
    def wrapper(*words: P.args, **names: P.kwargs) -> R:
        try:
            return handler(*words, **names)
        except TunerError as error:
            raise fault(error) from error
        except gr.Error:
            raise
        except Exception as error:  # the border of the page: what nobody foresaw is logged, and said as a fault of ours
            _LOG.exception("a handler failed: %s", handler.__qualname__)
            raise gr.Error(_OURS, title="That did not work", print_exception=False) from error

    return wrapper


def nothing(count: int) -> Any:
    """No change to that many outputs."""
    return gr.skip() if count == 1 else tuple(gr.skip() for _ in range(count))


def steady(count: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For the handlers of a clock, with that many outputs: a fault changes nothing on the page.

    What is expected was said when its cause was chosen, and a clock that says it again and again helps nobody; what
    nobody foresaw is logged.
    """

    def around(handler: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(handler)
        def wrapper(*words: P.args, **names: P.kwargs) -> R:
            try:
                return handler(*words, **names)
            except TunerError:
                return nothing(count)
            except Exception:  # as in `guarded`
                _LOG.exception("a look failed: %s", handler.__qualname__)
                return nothing(count)

        return wrapper

    return around
