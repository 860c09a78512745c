"""A whole fine-tuned model: a folder for diffusers' from_pretrained, one file for other tools, and a card."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..atomic import place_file, storage
from ..backbones.loading import STEMS, read_json, weight_files
from . import container
from .compvis import text_key
from .model_card import write_model_card
from .model_kind import FOLDER, KIND, TRAINED, ModelKind
from .original import ORIGINALS
from .sidecar import write_sidecars

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from ..backbones import DiffusionModel
    from .about import About

WORDS = (".json", ".txt", ".model")
"""Endings of what belongs to a tokenizer, scheduler or configuration."""
EMPTY = [None, None]
"""What model_index.json says of a component that is not there."""


def write_model(
    folder: Path, model: DiffusionModel, trained: Mapping[str, Mapping[str, Tensor]], about: About
) -> list[Path]:
    """Write every file of a fine-tuned model into `folder`.

    Args:
        folder: an empty folder.
        model: what was trained; its frozen components are taken from where it was loaded from, byte for byte.
        trained: every tensor of each trained component, under its module's names.
        about: name, dtype and metadata.

    Returns: model_index.json, then the single file, then what lies beside them.

    Raises: NumbersError for values that are not finite, or do not fit into the dtype; StorageError; DataError where a
        file of the base is not what it was.
    """
    place, dtype = folder / FOLDER, dtype_of(about)
    with storage(place):
        place.mkdir()
    write_folder(place, model, trained, dict.fromkeys(trained, dtype))
    single = folder / f"{about.name}.safetensors"
    write_single(single, model, trained, _header(about, trained), dtype)
    beside = [*write_sidecars(folder, about, "Model"), write_model_card(folder, about, sorted(trained))]
    return [place / "model_index.json", single, *beside]


def write_folder(
    place: Path,
    model: DiffusionModel,
    changed: Mapping[str, Mapping[str, Tensor]],
    dtypes: Mapping[str, torch.dtype],
) -> None:
    """Fill an empty folder with a model in diffusers' layout.

    Args:
        place: the folder.
        model: gives configurations, and every component that is not in `changed`, byte for byte.
        changed: every tensor of each changed component, under its module's names.
        dtypes: of the numbers of each changed component.

    Raises: NumbersError for values that are not finite, or do not fit into the type; StorageError.
    """
    with storage(place):
        for component, tensors in changed.items():
            _write_component(place / component, model, component, tensors, dtypes[component])
        index = _write_rest(place, model, set(changed))
        (place / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_single(
    path: Path,
    model: DiffusionModel,
    changed: Mapping[str, Mapping[str, Tensor]],
    header: Mapping[str, str],
    dtype: torch.dtype,
) -> None:
    """Write a model as one file in its makers' own layout; arguments as `write_folder`, with one type for all of it.

    Raises: NumbersError for values that are not finite, or do not fit into the type; StorageError.
    """
    original = ORIGINALS[model.backbone.key]
    components = {name: changed[name] if name in changed else stored(model, name) for name in original.needs}
    components |= changed
    with storage(path):
        container.write_file(path, original.pieces(components, configs(model)), header, dtype)


def stored(model: DiffusionModel, component: str) -> Mapping[str, Tensor]:
    """A frozen component's tensors as the base's files hold them. Raises: DataError."""
    weights = model.weights.get(component)
    return weights.tensors() if weights else model.components[component].state_dict()


def configs(model: DiffusionModel) -> dict[str, Mapping[str, Any]]:
    """Configuration of each component."""
    return {name: _config(module) for name, module in model.components.items()}


def dtype_of(about: About) -> torch.dtype:
    """The type of the numbers in the files."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[about.dtype]


def file_key(component: str, name: str) -> str:
    """A tensor's name in the component's file."""
    return text_key(name) if component.startswith("text_encoder") else name


def _config(module: nn.Module) -> Mapping[str, Any]:
    config: Any = module.config  # of transformers an object, of diffusers a mapping
    return config.to_dict() if hasattr(config, "to_dict") else config


def _write_component(
    place: Path, model: DiffusionModel, component: str, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    place.mkdir()
    module: Any = model.components[component]
    text = component in model.text_encoders
    tree = _json_of(module, model.origin / component / "config.json" if model.origin else None)
    if text:  # transformers reads the weights in the type that is named here
        tree = {key: value for key, value in tree.items() if key != "torch_dtype"} | {"dtype": _torch_name(dtype)}
    (place / "config.json").write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    stem = STEMS[1] if text else STEMS[0]
    pieces = {file_key(component, name): (value,) for name, value in tensors.items() if value.is_floating_point()}
    container.write_file(place / f"{stem}.safetensors", pieces, {"format": "pt"}, dtype)


def _torch_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _json_of(module: Any, base: Path | None) -> dict[str, Any]:
    """The component's config.json: the base's own, with what training changed in it."""
    made = json.loads(module.to_json_string() if hasattr(module, "to_json_string") else module.config.to_json_string())
    if base is None or not base.is_file():
        return made
    tree = read_json(base)
    return tree | {key: made[key] for key in ("pos_embed_max_size",) if key in made}


def _write_rest(place: Path, model: DiffusionModel, trained: set[str]) -> dict[str, Any]:
    """Put in place all that was not trained, and give model_index.json."""
    if model.origin is None:
        return _write_from_memory(place, model, trained)
    index = read_json(model.origin / "model_index.json")
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or name in trained:
            continue
        source = model.origin / name
        if not any(entry) or not _copy_component(source, place / name):
            index[name] = EMPTY
    if index.get("safety_checker") == EMPTY and "requires_safety_checker" in index:
        index["requires_safety_checker"] = False
    return index


def _copy_component(source: Path, target: Path) -> bool:
    """Take over a folder of the base, text files and the weights that tuner would read. False where it has none."""
    if not source.is_dir():
        return False
    files = [path for path in sorted(source.iterdir()) if path.suffix in WORDS and path.is_file()]
    weights = list(weight_files(source))
    modelled = (source / "config.json").is_file()
    if (modelled and not weights) or not files:
        return False  # weights in another format, or not fetched, such as those of a safety checker
    target.mkdir()
    for path in [*files, *weights]:
        # where only the 16-bit variant is there, it becomes the plain file that from_pretrained looks for
        place_file(path, target / (path.name.replace(".fp16.", ".") if ".fp16." in path.name else path.name))
    return True


def _write_from_memory(place: Path, model: DiffusionModel, trained: set[str]) -> dict[str, Any]:
    """What a single file held, in diffusers' layout."""
    import diffusers

    index: dict[str, Any] = {
        "_class_name": type(model.pipeline()).__name__,
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": EMPTY,
        "image_encoder": EMPTY,
        "requires_safety_checker": False,
        "safety_checker": EMPTY,
    }
    for name, module in model.components.items():
        library = "transformers" if name in model.text_encoders else "diffusers"
        index[name] = [library, type(module).__name__]
        if name not in trained:
            _write_stored(place / name, model, name)
    for name, tokenizer in model.tokenizers.items():
        short = name.replace("text_encoder", "tokenizer")
        tokenizer.save_pretrained(place / short)
        index[short] = ["transformers", "CLIPTokenizer"]
    (place / "scheduler").mkdir()
    text = json.dumps(dict(model.scheduler), indent=2, sort_keys=True)
    (place / "scheduler" / "scheduler_config.json").write_text(text + "\n", encoding="utf-8")
    index["scheduler"] = ["diffusers", model.scheduler["_class_name"]]
    return index


def _write_stored(place: Path, model: DiffusionModel, name: str) -> None:
    """A frozen component of a single file, in the type that the file has it in."""
    place.mkdir()
    module: Any = model.components[name]
    tensors = stored(model, name)
    tree, dtype = _json_of(module, None), next(value.dtype for value in tensors.values() if value.is_floating_point())
    text = name in model.text_encoders
    if text:
        tree |= {"dtype": _torch_name(dtype)}
    (place / "config.json").write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    stem = STEMS[1] if text else STEMS[0]
    pieces = {file_key(name, key): (value,) for key, value in tensors.items() if value.is_floating_point()}
    container.write_file(place / f"{stem}.safetensors", pieces, {"format": "pt"}, dtype)


def _header(about: About, trained: Iterable[str]) -> dict[str, str]:
    """Text in the single file's header. Holds no date, no path and no run name, so equal runs give equal bytes."""
    header = {"format": "pt", KIND: ModelKind.name, TRAINED: ",".join(sorted(trained))}
    if about.metadata == "none":
        return header
    facts: dict[str, Any] = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": ORIGINALS[about.family].architecture,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": about.title,
        "modelspec.resolution": f"{about.resolution}x{about.resolution}",
        "modelspec.prediction_type": about.prediction,
        "modelspec.trigger_phrase": about.activation or None,
        "ss_sd_model_name": about.base or None,
        "ss_steps": about.facts.get("step"),
        "tuner_backbone": about.family,
        "tuner_base": about.base or None,
        "tuner_base_identity": about.base_identity,
        "tuner_weights": about.weights,
        "tuner_recipe": about.recipe or None if about.metadata == "full" else None,
    }
    return header | {key: str(value) for key, value in facts.items() if value is not None}
