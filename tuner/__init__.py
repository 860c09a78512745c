"""tuner teaches Stable Diffusion a subject, a style or a preference, and writes a file that other tools load.

recipe = tuner.load_recipe("recipes/dreambooth_lora.yaml", ["train.steps=400"])
print(tuner.plan(recipe))
result = tuner.run(recipe)
tuner.load_adapter(pipe, result.adapter, strength=0.8)
print(tuner.evaluate(result.run_dir).markdown())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import run
    from .evaluation import evaluate
    from .formats.load import load_adapter
    from .formats.unload import unload_adapter
    from .planning import plan
    from .recipe_file import load_recipe

__all__ = ["evaluate", "load_adapter", "load_recipe", "plan", "run", "unload_adapter"]
__version__ = "0.1.0"

_HOMES = {
    "evaluate": "evaluation",
    "load_adapter": "formats.load",
    "load_recipe": "recipe_file",
    "plan": "planning",
    "run": "engine",
    "unload_adapter": "formats.unload",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import tuner` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tuner.{_HOMES[name]}"), name)
