"""Every route that exists is listed, as a door or as shut, so that none opens unseen."""

from __future__ import annotations

import re

import pytest
import stand_in
from starlette.routing import Mount, Route

from webui.guard import routes, serve
from webui.workspace import Workspace


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return stand_in.built(Workspace.open(tmp_path_factory.mktemp("routes")))


def walk(found, prefix=""):
    """(method, path) of every route, those of mounted apps too."""
    for route in found:
        if isinstance(route, Mount):
            yield from walk(route.routes, prefix + route.path)
        elif hasattr(route, "effective_candidates"):  # FastAPI's included routers
            yield from walk([*route.effective_candidates(), *route.effective_low_priority_routes()], prefix)
        elif isinstance(route, Route) or hasattr(route, "methods"):
            for method in route.methods:
                yield method, prefix + route.path
        else:
            yield type(route).__name__, prefix + getattr(route, "path", "?")


def test_every_route_is_listed(built):
    allowed = {(method, rule.path) for rule in routes.ALLOWED for method in rule.methods}
    unlisted = sorted({(m, p) for m, p in walk(built.inner.routes) if (m, p) not in allowed and p not in routes.DENIED})
    assert not unlisted, f"say in webui/guard/routes.py whether these are doors: {unlisted}"


def test_every_door_has_something_behind_it(built):
    there = set(walk(built.inner.routes))
    missing = [
        (method, rule.path)
        for rule in routes.ALLOWED
        for method in rule.methods
        if (method, rule.path) not in there and not (method == "HEAD" and ("GET", rule.path) in there)
    ]
    assert not missing


def test_nothing_is_both_a_door_and_shut():
    assert not {rule.path for rule in routes.ALLOWED if rule not in routes.OWN} & routes.DENIED.keys()


def test_a_new_route_is_noticed(built):
    built.inner.add_route("/gradio_api/brand-new", lambda request: None, methods=["POST"])
    try:
        with pytest.raises(AssertionError, match="brand-new"):
            test_every_route_is_listed(built)
    finally:
        built.inner.routes.pop()


@pytest.mark.parametrize("path", sorted(routes.DENIED))
def test_what_is_shut_has_no_door(path):
    filled = re.sub(r"\{\w+(:path)?\}", "abc", path)
    found = {routes.find(method, filled) for method in ("GET", "HEAD", "POST", "OPTIONS", "PUT")}
    assert found - {None} <= set(routes.OWN), filled


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get", ""])
def test_no_other_method_has_a_door(method):
    assert all(routes.find(method, rule.path) is None for rule in routes.ALLOWED)


def test_gradio_parts_that_open_doors_by_themselves_are_off(built):
    app = serve.gradio_app(built.inner)
    blocks = app.get_blocks()
    assert blocks.allowed_paths == []
    assert not blocks.share
    assert not blocks.run_history
    assert not blocks.mcp_server
    assert not blocks.ssr_mode
    assert not blocks.api_open
    assert not blocks.analytics_enabled


@pytest.mark.parametrize("name", ["..", ".", "", "a\\b", "a\x00", "a\nb", "a\x85b", "a/b", "../.."], ids=range(9))
def test_names_that_no_file_of_ours_has_find_no_door(name):
    assert routes.find("GET", "/media/sample/dog-1/10/0") is not None
    assert routes.find("GET", f"/media/sample/{name}/10/0") is None
