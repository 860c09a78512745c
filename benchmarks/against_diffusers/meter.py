"""What `tuner eval` measures, for a file that any tool made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .machine import digest
from .yardstick import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from tuner.evaluation import Asking

    from .subjects import Taught

SIGN = {"higher": 1, "lower": -1, "": 0}


@dataclass
class Evaluation:
    """Pictures drawn with and without an adapter from the same noise, compared by the toybox's judges."""

    base: str
    """`toybox` or a folder."""
    side: int
    """Of the pictures drawn."""
    threads: int
    asking: Asking
    _drawn: dict[str, dict[str, Sequence[Image]]] = field(default_factory=dict)
    """What the base drew, by class: its prompts and noise are the same for every adapter."""

    @property
    def key(self) -> str:
        import tuner
        from tuner import toybox

        code = digest(Path(tuner.__file__).parent / "evaluation", "*.py")
        judges = [digest(toybox.judge(name)) for name in ("clip", "dino")]
        return json.dumps({"code": code, "judges": judges, "side": self.side, **asdict(self.asking)}, sort_keys=True)

    def figures(self, adapter: Path, subject: Taught, out: Path) -> list[Figure]:
        """Every measure; its report and a sheet of pictures in `out`. Raises: TunerError."""
        import torch
        from PIL import Image

        from tuner import toybox
        from tuner.drawing import Drawing, Strong
        from tuner.evaluation import Case, prompts
        from tuner.evaluation.evaluate import draw, judge, sheet, write
        from tuner.watch import Watcher

        torch.set_num_threads(self.threads)
        photos = [Image.open(path).convert("RGB") for path in sorted(subject.photos.iterdir())]
        drawing = Drawing.plan([Strong(adapter, 1.0)], self.base, "cpu")
        case = Case(drawing, photos, subject.instance, subject.plain, prompts.toybox(), self.side)
        drawn = draw(case, self.asking, Watcher(), self._drawn.get(subject.class_name))
        self._drawn[subject.class_name] = dict(drawn.base)
        report = judge(case, drawn, self.asking, toybox.judge("clip"), toybox.judge("dino"), Watcher())
        write(out, report, sheet(case, drawn))
        return [
            Figure(
                row.key,
                f"{row.group}: {row.name}, {row.judge}",
                SIGN[row.better],
                row.adapter.mean,
                row.base.mean if row.base else None,
            )
            for row in report.rows
        ]
