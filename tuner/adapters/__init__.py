"""Every module in this folder is imported, so that a new adapter is one new file."""

from .._families import import_members
from .base import Adapter, Attachment

import_members(__name__, __path__)

__all__ = ["Adapter", "Attachment"]
