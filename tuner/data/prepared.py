"""Everything between the files and the first step: scan, class pictures, encodings, order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError
from ..types import Cond, Posterior, Role
from . import buckets, held_out, prior
from .batches import Batches, Look, Pictures, Recital, Texts, TokenTexts
from .cache import load
from .encode import Picture, encode_pictures, picture_key
from .encode_text import encode_captions
from .encoder_dropout import EncoderDropout
from .held_out import HeldOut
from .order import Bucket, Entry, Order
from .scan import Example, scan, scan_folder
from .sources import PriorSource
from .unpadded import restored

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ..backbones import DiffusionModel
    from ..draws import Draws
    from ..objectives import BoundObjective
    from ..processes import Processes
    from ..recipe import Recipe
    from ..watch import Watcher
    from .cache import Cache
    from .scan import Scan


@dataclass(frozen=True)
class Prepared:
    """The run's examples, and where their latents and texts come from."""

    roles: tuple[Role, ...]
    examples: Mapping[str, Sequence[Example]]
    sizes: Mapping[str, Mapping[str, Bucket]]
    """Bucket of each example, by role and uid."""
    pictures: Pictures
    texts: Texts
    recital: Recital
    held_out: HeldOut | None = None
    """Pictures of the validation."""
    captions: Sequence[str] = ()
    """Those that are read anew in every step. What is lost of them is known once the run's own words are."""

    @property
    def _beside(self) -> set[str]:
        """Roles that are in the order by the role that they make pairs with."""
        return {role.name for role in self.roles if role.beside}

    def order(self, draws: Draws, *, batch: int, unit_count: int) -> Order:
        entries = {
            role: [Entry(e.uid, e.repeats, self.sizes[role][e.uid]) for e in members]
            for role, members in self.examples.items()
            if role not in self._beside
        }
        return Order(draws, entries, batch=batch, unit_count=unit_count)

    def batches(self, order: Order, recipe: Recipe, draws: Draws, processes: Processes) -> Batches:
        return Batches(
            order,
            self.roles,
            self.examples,
            (self.pictures, self.texts, self.recital),
            recipe.bound_objective.needs(),
            draws,
            flip=recipe.data.flip,
            process=(processes.rank, processes.count),
        )


class CachedPictures:
    """Posteriors from the cache, found by key."""

    def __init__(self, cache: Cache, vae: str, background: str) -> None:
        self.cache, self.vae, self.background = cache, vae, background

    def key(self, look: Look) -> str:
        return picture_key(self.vae, look.example.digest, look.bucket, look.flip, self.background)

    def posteriors(self, looks: Sequence[Look]) -> Posterior:
        import numpy as np
        import torch

        records = [load(self.cache, "latents", self.key(look)) for look in looks]
        return Posterior(*(torch.from_numpy(np.stack([r[name] for r in records])) for name in ("mean", "logvar")))


class CachedTexts:
    """Embeddings from the cache, found by key."""

    def __init__(self, cache: Cache, keys: Mapping[str, str]) -> None:
        self.cache, self.keys = cache, keys

    def __call__(self, captions: Sequence[str]) -> Cond:
        import numpy as np
        import torch

        records = [restored(load(self.cache, "text", self.keys[caption])) for caption in captions]
        return Cond({name: torch.from_numpy(np.stack([r[name] for r in records])) for name in records[0]})


def find(recipe: Recipe, watcher: Watcher) -> Scan:
    """The pictures there are before anything is generated. Cached runs decode a picture only when they encode it.

    Raises: DataError where a role has no usable picture.
    """
    return scan(recipe, decode=recipe.data.cache == "off", watcher=watcher)


def add_class_pictures(
    recipe: Recipe,
    found: Scan,
    model: DiffusionModel,
    objective: BoundObjective,
    cache: Cache,
    watcher: Watcher,
    *,
    device: torch.device | None = None,
) -> None:
    """Let the untouched base draw what the prior's sources ask for, and take it in; `device` as `prior.generate`."""
    brought = len(found.examples.get("prior", ()))
    for source in recipe.sources.get("prior", ()):
        own = brought if source.path or source.dataset else 0
        if not isinstance(source, PriorSource) or source.generate is None or own >= source.generate:
            continue
        side = recipe.data.resolution
        folder = prior.generate(
            model, source, (side, side), own, cache.root, objective=objective, watcher=watcher, device=device
        )
        have = found.examples.setdefault("prior", [])
        drawn = scan_folder(folder, source, "prior", recipe.data, decode=False, watcher=watcher, after=have)
        have.extend(drawn.examples["prior"])
        for refused in held_out.refuse_trained(found.examples):
            watcher.warn(f"{refused.name}: left out: {refused.reason}")


def encode(
    recipe: Recipe,
    found: Scan,
    model: DiffusionModel,
    draws: Draws,
    cache: Cache,
    watcher: Watcher,
    *,
    learns_text: bool,
    device: torch.device | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Prepared:
    """Fill the cache with what the run will read: texts, then pictures, so that no two encoders share the memory.

    Args:
        recipe, found, model, draws, cache, watcher: of the run.
        learns_text: whether embeddings change, so that none are cached.
        device: where to encode; None where the encoders are. What was not in memory before is not there afterwards.
        meanwhile: called while the text encoders are on the device, unless they learn.

    Raises: DataError where no picture of a role can be decoded; NumbersError for latents that are not finite.
    """
    data = recipe.data
    roles = recipe.task.roles(recipe.sources)
    names = [role.name for role in roles if not role.mirrors]
    examples = {name: list(found.examples[name]) for name in (*names, held_out.ROLE) if name in found.examples}
    sizes = {role: {e.uid: buckets.size_for(e.size, data) for e in members} for role, members in examples.items()}
    beside = {role.name: role.beside for role in roles if role.beside}
    sizes |= {role: sizes[home] for role, home in beside.items()}  # the two of a pair have one uid
    # Held-out pictures always look the same, so that they are cached even where the others are not.
    wanted = [Picture(e, sizes[held_out.ROLE][e.uid], flip=False) for e in examples.get(held_out.ROLE, ())]
    cached = CachedPictures(cache, model.identity("vae"), data.background)
    pictures: Pictures = cached
    if data.cache == "off":
        from .live import LivePictures

        pictures = LivePictures(model, data, draws)
    else:
        wanted += _every_look({name: examples[name] for name in names}, sizes, beside, flip=data.flip)
    dropout = None
    if data.encoder_dropout:
        dropout = EncoderDropout(data.encoder_dropout, tuple(model.text_encoders), model.without)
    recital = Recital(data.caption_dropout, _mirrored_captions(recipe, roles), dropout)
    texts: Texts
    captions = _captions(examples, recital)
    if learns_text:
        texts = TokenTexts(model.tokenize)
    else:
        with model.at_hand(model.text_encoders if meanwhile else (), device):
            if meanwhile:
                meanwhile()
            texts = CachedTexts(cache, encode_captions(model, captions, cache, watcher=watcher, device=device))
    if wanted:
        refused = encode_pictures(model, wanted, cache, background=data.background, watcher=watcher, device=device)
        _leave_out(examples, {r.name: r.reason for r in refused}, beside, watcher)
    apart = None
    if held := examples.pop(held_out.ROLE, None):
        # Captions never drop out of a measurement, unless the run trains without any.
        told = Recital(1.0 if data.caption_dropout == 1 else 0.0, {})
        apart = HeldOut(held, sizes.pop(held_out.ROLE), cached, texts, told)
    return Prepared(roles, examples, sizes, pictures, texts, recital, apart, captions if learns_text else ())


def _every_look(
    examples: Mapping[str, Sequence[Example]],
    sizes: Mapping[str, Mapping[str, Bucket]],
    beside: Collection[str],
    *,
    flip: bool,
) -> list[Picture]:
    """Each way in which a picture will be seen."""
    first = next(iter(examples))
    used = sorted(set(sizes[first].values()))
    return [
        Picture(example, size, flipped)
        for role, members in examples.items()
        for example in members
        # A unit is one tensor: pictures of the other roles are needed in the shape of each bucket of the first.
        for size in ([sizes[role][example.uid]] if role == first or role in beside else used)
        for flipped in ((False, True) if flip else (False,))
    ]


def _captions(examples: Mapping[str, Sequence[Example]], recital: Recital) -> list[str]:
    unique = {caption for members in examples.values() for e in members for caption in e.captions}
    unique |= set(recital.mirrored.values()) | ({""} if recital.dropout else set())
    return sorted(unique)


def _mirrored_captions(recipe: Recipe, roles: Sequence[Role]) -> dict[str, str]:
    return {role.name: str(recipe.sources[role.name][0].caption) for role in roles if role.mirrors}


def _leave_out(
    examples: dict[str, list[Example]], refused: Mapping[str, str], beside: Mapping[str, str], watcher: Watcher
) -> None:
    """Take out what is refused, and with a picture the other one of its pair.

    Raises: DataError where a role has none left.
    """
    for name, reason in refused.items():
        watcher.warn(f"{name}: left out: {reason}")
    lost = {e.uid for role in {*beside, *beside.values()} for e in examples[role] if e.name in refused}
    for role, members in examples.items():
        paired = role in beside or role in beside.values()
        for e in members:
            if paired and e.uid in lost and e.name not in refused:
                watcher.warn(f"{e.name}: left out: the other picture of its pair is")
        kept = [e for e in members if e.name not in refused and not (paired and e.uid in lost)]
        if members and not kept:
            reasons = "\n".join(f"{name}: {reason}" for name, reason in refused.items())
            label = role if role == held_out.ROLE else f"data.{role}"
            raise DataError(f"{label}: none of its pictures can be read\n{reasons}", "put readable pictures there")
        examples[role] = kept
