"""Every module in this folder is imported, so that a new backbone is one new file."""

from .._families import import_members
from .base import Backbone, DiffusionModel

import_members(__name__, __path__)

__all__ = ["Backbone", "DiffusionModel"]
