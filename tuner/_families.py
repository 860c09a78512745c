"""Importing every module of a family's folder, which registers its members."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules


def import_members(package: str, path: Iterable[str]) -> None:
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")
