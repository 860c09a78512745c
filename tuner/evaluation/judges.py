"""The models that compare pictures: CLIP for pictures and texts, DINOv2 for the look of one particular thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DataError, NumbersError
from . import judge_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from PIL.Image import Image
    from torch import Tensor

    from .measures import Embeddings

CLIP = "openai/clip-vit-large-patch14"
"""The paper has CLIP ViT-B/32; this is its larger sibling."""
DINO = "facebook/dinov2-small"
"""Where the paper has DINO ViT-S/16: the same size and idea, one generation on."""
CLIP_OPTION, DINO_OPTION = "--clip", "--dino"
BATCH = 32
_FAULTS = (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError, AttributeError)
"""What transformers raises for files that are damaged or of another kind."""


class Judge:
    """A model that turns pictures, and texts where it reads, into directions.

    Args:
        source: for messages.
        model: in eval mode, on its device.
        processor: pictures to pixel values, as the model was trained.
        see: the model's features of pixel values, (B, C, H, W) to (B, D).
        tokenizer: None where it does not read.
    """

    def __init__(
        self,
        source: str | Path,
        model: Any,
        processor: Any,
        see: Callable[[Any, Tensor], Tensor],
        tokenizer: Any = None,
    ) -> None:
        self.source, self.model, self.processor = source, model, processor
        self.see, self.tokenizer = see, tokenizer

    def pictures(self, pictures: Sequence[Image]) -> Embeddings:
        """One row of length 1 for each picture. Raises: NumbersError."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                part = [picture.convert("RGB") for picture in pictures[start : start + BATCH]]
                values = self.processor(images=part, return_tensors="pt")["pixel_values"].to(self.model.device)
                rows.append(self.see(self.model, values))
        return self._unit(torch.cat(rows))

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """One row of length 1 for each text; what is longer than the model reads is cut off. Raises: NumbersError."""
        import torch

        most = self.model.config.text_config.max_position_embeddings
        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                part = list(texts[start : start + BATCH])
                tokens = self.tokenizer(part, padding=True, truncation=True, max_length=most, return_tensors="pt")
                rows.append(_plain(self.model.get_text_features(**tokens.to(self.model.device))))
        return self._unit(torch.cat(rows))

    def _unit(self, rows: Tensor) -> Embeddings:
        import torch

        rows = rows.float()
        if not torch.isfinite(rows).all():
            raise NumbersError(f"{self.source}: the judge's numbers are not finite", "its files may be damaged")
        return torch.nn.functional.normalize(rows, dim=1).cpu().numpy()


def clip(source: str | Path, device: torch.device) -> Judge:
    """A CLIP by folder or Hub id. Raises: DataError."""
    from transformers import AutoTokenizer, CLIPModel

    folder = find_clip(source)
    tokenizer = _asked(AutoTokenizer, folder, source, CLIP_OPTION)
    model, processor = _load(CLIPModel, folder, source, CLIP_OPTION, device)
    return Judge(
        source, model, processor, lambda m, values: _plain(m.get_image_features(pixel_values=values)), tokenizer
    )


def dino(source: str | Path, device: torch.device) -> Judge:
    """A DINOv2 (or another vision transformer with a class token) by folder or Hub id. Raises: DataError.

    Its features are the class token after the last norm (Caron et al. 2021), not the output of a pooling layer, which
    transformers adds to some such models with random weights.
    """
    from transformers import AutoModel

    model, processor = _load(AutoModel, find_dino(source), source, DINO_OPTION, device, spare="pooler.")
    return Judge(source, model, processor, _class_token)


def find_clip(source: str | Path) -> Path:
    """The folder of a CLIP, fetched where this machine has none. Raises: DataError."""
    return judge_files.find(source, CLIP_OPTION, reads=True)


def find_dino(source: str | Path) -> Path:
    """The folder of a DINO, likewise. Raises: DataError."""
    return judge_files.find(source, DINO_OPTION, reads=False)


def _projected(model: Any, values: Tensor) -> Tensor:
    return _plain(model.get_image_features(pixel_values=values))


def _class_token(model: Any, values: Tensor) -> Tensor:
    return model(pixel_values=values).last_hidden_state[:, 0]


def _plain(found: Any) -> Tensor:
    """Transformers 5 wraps CLIP's features."""
    return found.pooler_output if hasattr(found, "pooler_output") else found


def _load(
    kind: Any, folder: Path, source: str | Path, option: str, device: torch.device, spare: str = "-"
) -> tuple[Any, Any]:
    """A model and its processor.

    Args:
        spare: how parameters begin that are not used and may be missing.
    """
    import torch
    from transformers import AutoImageProcessor

    processor = _asked(AutoImageProcessor, folder, source, option, backend="pil")
    settings = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    model, told = _asked(kind, folder, source, option, **settings)
    missing = sorted(name for name in told["missing_keys"] if not name.startswith(spare))
    if missing:  # they would be random
        raise DataError(
            f"{option} {source}: the judge cannot be loaded: weights are missing: {missing[0]} ({len(missing)})",
            "download it again, or check that it is the kind of model that this option takes",
        )
    return model.eval().requires_grad_(False).to(device), processor


def _asked(kind: Any, folder: Path, source: str | Path, option: str, **settings: Any) -> Any:
    """A part of a published model, from its folder alone; code that comes with one is never run."""
    from safetensors import SafetensorError

    from ..formats.loaders import quiet_loaders

    try:
        with quiet_loaders():
            return kind.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, **settings)
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        TypeError,
        ImportError,
        AttributeError,
        SafetensorError,
    ) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{option} {source}: the judge cannot be loaded: {first}", f"download it again, or give {option} another"
        ) from error
