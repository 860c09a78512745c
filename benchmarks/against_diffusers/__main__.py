"""tuner against diffusers' own DreamBooth-LoRA script: seconds, fidelity and drift in one table, lost rows included.

    python -m benchmarks.against_diffusers --script train_dreambooth_lora.py --python peer/bin/python --out OUT

It goes on where it was stopped, as long as the terms, the base and the versions are the same; a cell that failed is
tried again. Exit status 1 says that a cell failed: the table counts it, and how it ended lies in its folder.

The peer's script is the one in diffusers' repository, `examples/dreambooth/train_dreambooth_lora.py`, of the newest
version that the installed diffusers satisfies; it is not kept here. Its environment, made beside tuner's own:

    python -m venv peer
    peer/bin/pip install torch==2.13.0+cpu diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0
    peer/bin/pip install pillow==12.3.0 && peer/bin/pip install --no-deps torchvision==0.28.0
    sed -i '/^    _meta_registrations,$/d' peer/lib/python3.*/site-packages/torchvision/__init__.py

torchvision has no build for torch without CUDA; without that line its transforms import, which are all that the script
uses of it. Take the versions of tuner's own environment; the table names both.

Both tools get the same photo files, captions, base, steps, rank (and alpha), batch, rate, seed, prior weight, threads,
no network, and a cold cache; the script's validation and checkpoints are off, and so are tuner's. What stays different
is the tools' own: the script draws class pictures with PNDM and keeps them as JPEG, tuner with DPM-Solver++, in as
many steps unless --drawn-steps says otherwise, and keeps them as PNG (--shared-prior gives both one folder); the script
encodes photos and captions again at each step; their random generators differ, so that equal seeds are repetitions and
not the same draws.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from .compare import compare
from .terms import DRAWN_STEPS, Terms


def main(argv: list[str] | None = None) -> int:
    asked = parser().parse_args(argv)
    terms = Terms(
        asked.steps, asked.rank, asked.batch, asked.lr, asked.prior, asked.resolution, asked.threads, asked.drawn_steps
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the training that runs ends with us
    try:
        return compare(asked, terms)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is not done")
        return 130


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--script", type=Path, required=True, help="the peer's train_dreambooth_lora.py")
    made.add_argument("--python", type=Path, required=True, help="the Python of the peer's environment")
    made.add_argument("--base", default="toybox", help="`toybox`, or an SD1.5-shaped folder in diffusers' layout")
    made.add_argument("--out", type=Path, required=True, help="where cells and the table are kept")
    made.add_argument("--large-photos", type=Path, metavar="FOLDER", help="folders of real photos; times alone")
    made.add_argument("--subjects", type=int, nargs="+", default=[501, 502, 503, 504, 505], help="seeds of subjects")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    made.add_argument("--sides", nargs="+", choices=["peer", "matched", "own"], default=["peer", "matched", "own"])
    made.add_argument("--photos", type=int, default=6, help="photos of a drawn subject")
    made.add_argument("--photo-px", type=int, default=256, help="their side")
    made.add_argument("--steps", type=int, default=300)
    made.add_argument("--rank", type=int, default=16)
    made.add_argument("--batch", type=int, default=1)
    made.add_argument("--lr", type=float, default=1e-3)
    made.add_argument("--prior", type=int, default=50, help="class pictures; 0 trains without prior preservation")
    made.add_argument("--drawn-steps", type=int, default=DRAWN_STEPS, help="sampler steps of tuner's class pictures")
    made.add_argument("--shared-prior", action="store_true", help="both read one folder of class pictures")
    made.add_argument("--resolution", type=int, default=64)
    made.add_argument("--threads", type=int, default=2, help="OMP_NUM_THREADS of both")
    made.add_argument("--limit-s", type=float, default=3600, help="the longest that one training may take")
    made.add_argument("--pictures", type=int, default=16, help="drawn of the subject, and of its class, to measure")
    made.add_argument("--per-prompt", type=int, default=None, help="drawn for each context and unrelated prompt")
    made.add_argument("--times-only", action="store_true", help="measure no pictures")
    made.add_argument("--table-only", action="store_true", help="train nothing more; measure and tabulate what is done")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
