"""What a run will do, before it does it: steps, pictures, memory, disk. Imports no torch."""

from __future__ import annotations

from .disk import size
from .machine import Machine, find_machine
from .plan import Plan, plan, require
from .rate import measured_rate

__all__ = ["Machine", "Plan", "find_machine", "measured_rate", "plan", "require", "size"]
