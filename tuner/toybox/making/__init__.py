"""How the models of the toybox were trained; `python -m tuner.toybox.making` does it again, going on where it stopped."""
