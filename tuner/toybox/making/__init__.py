"""How the toybox's models were trained; `python -m tuner.toybox.making` does it again, or goes on."""
