"""A page with the kinds of components that the real one has, and a server that runs it in a thread."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager

import gradio as gr
import pytest

from webui.guard import hosts, serve, server

CHROMIUM = "/usr/bin/chromium"
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
HEAD = "<script>window.ownHead = 'ran';</script>"


def blocks() -> gr.Blocks:
    with gr.Blocks(title="stand-in", analytics_enabled=False) as page:
        count = gr.State(0)
        with gr.Tabs():
            with gr.Tab("One"):
                name = gr.Textbox(label="Name")
                said = gr.HTML("<p id='said'>nothing yet</p>")
                again = gr.Button("Greet")
                own = gr.HTML(
                    "<button data-do='x'>press</button>",
                    js_on_load="element.addEventListener('click', () => trigger('click', {id: 'a'}))",
                    elem_id="own",
                )
                gr.HTML(
                    html_template="<b class='made'>{{value}}</b>", value="<img src=x onerror=alert(1)>", elem_id="made"
                )
                gr.Slider(0, 2, 1, label="Strength")
                gr.Dropdown(["a", "b"], label="Which")
                ticks = gr.HTML("<i id='ticks'>0</i>")
            with gr.Tab("Two"):
                gr.Code("a: 1", language="yaml", label="Recipe")
                gr.Markdown("**bold**")
                gr.Dataframe([[1, 2]], headers=["a", "b"])
                gr.Checkbox(label="Check")
                gr.Number(label="Number")
                gr.JSON({"a": 1})
        timer = gr.Timer(0.5)
        timer.tick(lambda n: (n + 1, f"<i id='ticks'>{n + 1}</i>"), count, [count, ticks], show_progress="hidden")
        again.click(lambda text: f"<p id='said'>hello {len(text)}</p>", name, said)
        own.click(lambda: "<p id='said'>pressed</p>", None, said)
    return page


@contextmanager
def running(built: serve.Built, port: int = 0):
    """The app on a real socket; gives its address."""
    listening = server.listen("127.0.0.1", port)
    up = threading.Event()
    running = server.Server(server.config(built.app), up.set, built.stop)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert up.wait(30)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        running.should_exit = True
        began = time.monotonic()
        thread.join(10)
        assert not thread.is_alive()
        running.took_s = time.monotonic() - began


def built(workspace, **words) -> serve.Built:
    return serve.build(
        workspace, hosts.LOOPBACK, page=lambda: (blocks(), {"head": HEAD, "css": "#own {color: red}"}), **words
    )


@contextmanager
def chromium():
    """Debian's Chromium, which `.ci/run` installs; it asks nobody but the pages that a test opens."""
    if not os.path.exists(CHROMIUM):
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield browser
        browser.close()
