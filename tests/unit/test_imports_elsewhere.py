"""Every module imports where POSIX's own modules are absent, as on Windows."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import tuner

ABSENT = ("fcntl", "resource", "pwd", "grp", "termios")
SCRIPT = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        # Only what the package itself imports: its dependencies have their own ways on each system.
        frame = sys._getframe(1)
        while frame and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if name in {ABSENT!r} and frame and frame.f_globals.get("__name__", "").startswith("tuner"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
for name in {ABSENT!r}:
    sys.modules.pop(name, None)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
    for absent in {ABSENT!r}:
        sys.modules.pop(absent, None)
"""


def test_every_module_imports_without_posix_modules():
    names = [
        module.name
        for module in pkgutil.walk_packages(tuner.__path__, "tuner.")
        if not module.name.endswith("__main__")
    ]
    assert "tuner.lock" in names
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_absence_is_noticed(tmp_path):
    """The test above can fail."""
    (tmp_path / "tuner_posix_only.py").write_text("import fcntl\n")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + SCRIPT
    done = subprocess.run(
        [sys.executable, "-c", script, "tuner_posix_only"], capture_output=True, text=True, check=False
    )
    assert "No module named 'fcntl'" in done.stderr
