"""Keyed randomness: every random number is a pure function of (seed, purpose, ids).

One key a purpose, so that switching one feature on moves no other. numpy's Philox (Salmon et al. 2011) rather than
torch's generator, whose CPU normal stream differs between instruction sets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one run."""

    seed: int

    def key(self, purpose: str, *ids: str | int) -> int:
        """128 bits of blake2b over seed, purpose and ids, each with its length so that none run together."""
        digest = hashlib.blake2b(digest_size=16, person=b"tuner-draws-1")
        for part in (self.seed, purpose, *ids):
            data = f"{type(part).__name__}:{part}".encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        return int.from_bytes(digest.digest(), "little")

    def generator(self, purpose: str, *ids: str | int) -> np.random.Generator:
        from numpy.random import Generator, Philox

        return Generator(Philox(key=self.key(purpose, *ids)))

    def torch_seed(self, purpose: str, *ids: str | int) -> int:
        """A seed in [0, 2**63) for torch.manual_seed."""
        return self.key(purpose, *ids) >> 65

    def normal(self, shape: tuple[int, ...], purpose: str, *ids: str | int) -> NDArray[np.float32]:
        """Standard normal, float32."""
        import numpy as np

        return self.generator(purpose, *ids).standard_normal(shape, dtype=np.float32)

    def uniform(self, purpose: str, *ids: str | int) -> float:
        """Uniform in [0, 1)."""
        return float(self.generator(purpose, *ids).random())

    def below(self, n: int, purpose: str, *ids: str | int) -> int:
        """A uniform integer in [0, n)."""
        return int(self.generator(purpose, *ids).integers(n))

    def permutation(self, n: int, purpose: str, *ids: str | int) -> NDArray[np.int64]:
        return self.generator(purpose, *ids).permutation(n)
