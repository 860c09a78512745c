"""The models that compare pictures: CLIP for pictures and texts, DINOv2 for the look of one particular thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from PIL.Image import Image
    from torch import Tensor

    from .measures import Embeddings

CLIP = "openai/clip-vit-large-patch14"
DINO = "facebook/dinov2-small"
"""Where the paper has DINO ViT-S/16: the same size and idea, one generation on, and published as safetensors."""
BATCH = 32


class Judge:
    """A model that turns pictures into directions."""

    def __init__(self, model: Any, processor: Any, tokenizer: Any, device: torch.device) -> None:
        self.model, self.processor, self.tokenizer, self.device = model, processor, tokenizer, device

    def pictures(self, pictures: Sequence[Image]) -> Embeddings:
        """One row of length 1 for each picture."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                part = [picture.convert("RGB") for picture in pictures[start : start + BATCH]]
                values = self.processor(images=part, return_tensors="pt")["pixel_values"].to(self.device)
                rows.append(_seen(self.model, values))
        return _unit(torch.cat(rows))

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """One row of length 1 for each text; what is longer than the model reads is cut off."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                part = list(texts[start : start + BATCH])
                tokens = self.tokenizer(part, padding=True, truncation=True, return_tensors="pt").to(self.device)
                rows.append(_plain(self.model.get_text_features(**tokens)))
        return _unit(torch.cat(rows))


def clip(source: str | Path, device: torch.device) -> Judge:
    """A CLIP by folder or Hub id. Raises: DataError."""
    from transformers import AutoTokenizer, CLIPModel

    model, processor = _load(CLIPModel, source, "--clip", device)
    return Judge(model, processor, _asked(AutoTokenizer, source, "--clip"), device)


def dino(source: str | Path, device: torch.device) -> Judge:
    """A DINOv2 (or another vision transformer with a class token) by folder or Hub id. Raises: DataError."""
    from transformers import AutoModel

    model, processor = _load(AutoModel, source, "--dino", device)
    return Judge(model, processor, None, device)


def _seen(model: Any, values: Tensor) -> Tensor:
    """The picture's features: CLIP's projected ones, else the class token after the last norm."""
    if hasattr(model, "get_image_features"):
        return _plain(model.get_image_features(pixel_values=values))
    return model(pixel_values=values).pooler_output


def _plain(found: Any) -> Tensor:
    """Transformers 5 wraps CLIP's features."""
    return found.pooler_output if hasattr(found, "pooler_output") else found


def _unit(rows: Tensor) -> Embeddings:
    import torch

    return torch.nn.functional.normalize(rows.float(), dim=1).cpu().numpy()


def _load(kind: Any, source: str | Path, option: str, device: torch.device) -> tuple[Any, Any]:
    import torch
    from transformers import AutoImageProcessor

    model = _asked(kind, source, option, use_safetensors=True, dtype=torch.float32)
    return model.eval().requires_grad_(False).to(device), _asked(AutoImageProcessor, source, option, backend="pil")


def _asked(kind: Any, source: str | Path, option: str, **settings: Any) -> Any:
    """A part of a published model; code that comes with one is never run."""
    try:
        return kind.from_pretrained(str(source), trust_remote_code=False, **settings)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{source}: the judge cannot be loaded: {first}",
            f"download it where there is a network (hf download {source}), or give {option} a folder that holds it",
        ) from error
