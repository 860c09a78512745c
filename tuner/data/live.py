"""Encoding on the spot, for `data.cache: off`: every visit may have a crop and colours of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import NumbersError
from . import images

if TYPE_CHECKING:
    import numpy as np

    from ..backbones import DiffusionModel
    from ..draws import Draws
    from ..sections import DataOptions
    from ..types import Posterior
    from .batches import Look


class LivePictures:
    """Decodes, crops, colours and encodes each look when it is needed."""

    def __init__(self, model: DiffusionModel, data: DataOptions, draws: Draws) -> None:
        self.model, self.data, self.draws = model, data, draws

    def posteriors(self, looks: Sequence[Look]) -> Posterior:
        import numpy as np
        import torch

        from ..types import Posterior

        pixels = np.stack([self._pixels(look) for look in looks])  # (B, H, W, 3) uint8
        device = self.model.vae.device
        with torch.no_grad():
            scaled = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            posterior = self.model.encode_images(scaled.contiguous())  # laid out as for the cache: the same kernels
            mean, logvar = posterior.mean.cpu(), posterior.logvar.cpu()
        for row, look in zip(mean, looks, strict=True):
            if not torch.isfinite(row).all():
                raise NumbersError(
                    f"{look.example.name}: the VAE's latents are not finite", "look at the picture, then at the VAE"
                )
        return Posterior(mean, logvar)

    def _pixels(self, look: Look) -> np.ndarray:
        import numpy as np

        image = images.decode(look.example.read(), look.example.name, self.data.background)
        place = (0.5, 0.5)
        if self.data.crop == "random":
            place = (self.draws.uniform("crop_x", *look.ids), self.draws.uniform("crop_y", *look.ids))
        if self.data.color_jitter:
            image = images.jitter(image, self.data.color_jitter, self.draws.generator("color", *look.ids))
        pixels = images.fit(image, look.bucket, place)
        return np.ascontiguousarray(pixels[:, ::-1]) if look.flip else pixels
