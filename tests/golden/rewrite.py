"""Write the golden loss curves anew: `python tests/golden/rewrite.py [name ...]`. Review the difference, and say why in the CHANGELOG."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from curves import CURVES, HERE, losses  # noqa: E402 needs the paths above


def main() -> None:
    import torch

    about = f"# torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread; columns: step, loss"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TUNER_CACHE"] = cache
        for name in sys.argv[1:] or CURVES:
            lines = [f"{step} {loss:.9g}" for step, loss in enumerate(losses(name), 1)]
            (HERE / f"{name}.txt").write_text("\n".join([about, *lines]) + "\n")
            print(f"{name}: {lines[0]} ... {lines[-1]}")


if __name__ == "__main__":
    main()
