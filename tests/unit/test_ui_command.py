"""`tuner ui` where the pages are not installed, and what it says of itself."""

from __future__ import annotations

import importlib.util

import pytest

from tuner.cli import call
from tuner.commands import ui


@pytest.fixture
def without(monkeypatch):
    """Pretend that a package is not there."""
    real = importlib.util.find_spec

    def hide(name):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda asked, *rest: None if asked == name else real(asked, *rest)
        )

    return hide


@pytest.mark.parametrize("name", [*ui.NEEDED, "webui"])
def test_without_the_extra_one_line_says_what_to_install(without, name, capsys):
    without(name)
    assert call(["ui"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: the web pages are not installed\n  -> pip install 'diffusion-tuner[ui]'\n"


def test_no_option_goes_without_a_login_elsewhere(capsys):
    for word in ("--no-login", "--no-auth", "--share", "--insecure"):
        assert call(["ui", "--host", "0.0.0.0", word]) == 2
    assert "no such option" in capsys.readouterr().err.lower()


def test_a_name_that_is_none_is_refused_before_anything_starts(capsys, tmp_path):
    assert call(["ui", "--workspace", str(tmp_path / "w"), "--allow-host", "http://gpu"]) == 2
    assert "--allow-host" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
