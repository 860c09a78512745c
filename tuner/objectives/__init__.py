"""Every module in this folder is imported, so that a new objective is one new file."""

from .._families import import_members
from .base import BoundObjective, Objective

import_members(__name__, __path__)

__all__ = ["BoundObjective", "Objective"]
