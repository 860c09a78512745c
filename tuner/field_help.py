"""The sentence under a field, read from the source once a module.

pydantic's `use_attribute_docstrings` does the same by searching the call stack for each class, which takes a fifth of
the time in which `tuner check` answers.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from functools import cache
from itertools import pairwise

Docs = dict[str, dict[str, str]]
"""By qualified class name, then by attribute."""


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings of a class's own annotated attributes; empty where there is no source to read."""
    try:
        file = inspect.getfile(cls)
    except (TypeError, OSError):
        return {}
    return _module_docs(file).get(cls.__qualname__, {})


@cache
def _module_docs(file: str) -> Docs:
    found: Docs = {}
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # a source that is not Python, such as a notebook's
        return found
    _walk(tree.body, "", found)
    return found


def _walk(body: list[ast.stmt], outer: str, found: Docs) -> None:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            found[outer + statement.name] = _attributes(statement.body)
            _walk(statement.body, f"{outer}{statement.name}.", found)
        elif isinstance(statement, ast.FunctionDef):
            _walk(statement.body, f"{outer}{statement.name}.<locals>.", found)
        elif isinstance(statement, ast.If):
            _walk([*statement.body, *statement.orelse], outer, found)


def _attributes(body: list[ast.stmt]) -> dict[str, str]:
    docs = {}
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            docs[statement.target.id] = inspect.cleandoc(following.value.value)
    return docs
