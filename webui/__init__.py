"""The web UI: a thin client of run directories. Nothing imports it."""
