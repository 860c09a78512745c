"""Every draw of a visit has a key of its own: who it is, which visit, what for. Dropping any of them is noticed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.data.batches import Batches, Recital
from tuner.data.order import Entry, Order
from tuner.draws import Draws
from tuner.types import Cond, Draw, Posterior, Role

BUCKETS = [(32, 32), (48, 24), (24, 48)]
NEEDS = {"noise": Draw("normal", "latent"), "level": Draw("uniform", "scalar")}


@dataclass(frozen=True)
class Picture:
    uid: str
    captions: tuple[str, ...]
    weight: float = 1.0
    caption_weights: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.uid}.png"


class Pictures:
    """Posteriors that only depend on the look, with a variance of 1 so that the posterior's draw shows."""

    def __init__(self):
        self.looks = []

    def posteriors(self, looks):
        self.looks += looks
        width, height = looks[0].bucket
        mean = torch.zeros(len(looks), 4, height // 8, width // 8)
        return Posterior(mean, torch.zeros_like(mean))


class Texts:
    def __init__(self):
        self.captions = []

    def __call__(self, captions):
        self.captions += captions
        return Cond({"text": torch.zeros(len(captions), 2, 3)})


def made(seed=0, *, count=5, extra=(), flip=False, dropout=0.0, needs=NEEDS, draws=None):
    """Batches of two roles with `count` pictures and those named in `extra`."""
    draws = draws or Draws(seed)
    uids = [f"a{i}" for i in range(count)] + list(extra)
    examples = {
        "instance": [Picture(uid, ("one", "another", "a third")) for uid in uids],
        "prior": [Picture(f"p{i}", ("plain",)) for i in range(3)],
    }
    entries = {
        role: [Entry(e.uid, 2 if role == "instance" else 1, BUCKETS[i % 3]) for i, e in enumerate(members)]
        for role, members in examples.items()
    }
    order = Order(draws, entries, batch=2, unit_count=4)
    pictures, texts = Pictures(), Texts()
    sources = (pictures, texts, Recital(dropout, {}))
    roles = (Role("instance"), Role("prior"))
    return Batches(order, roles, examples, sources, needs, draws, flip=flip)


def by_visit(batches, steps=12):
    """What each visit drew: {(role, uid, epoch, repeat): {purpose: bytes}}."""
    out = {}
    for step in range(steps):
        start = len(batches.texts.captions)
        for batch in batches[step]:
            rows = slice(start, start := start + len(batch.weight))
            looks, captions = batches.pictures.looks[rows], batches.texts.captions[rows]
            for i, (look, caption) in enumerate(zip(looks, captions, strict=True)):
                drawn = {name: value[i].numpy().tobytes() for name, value in batch.draws.items()}
                drawn |= {"posterior": batch.latents[i].numpy().tobytes(), "caption": caption, "flip": look.flip}
                assert look.ids not in out, "a visit is seen once"
                out[look.ids] = drawn
    return out


def same(one, other, *purposes):
    return all(
        one[visit][purpose] == other[visit][purpose] for visit in one.keys() & other.keys() for purpose in purposes
    )


# Laws


@given(st.integers(0, 2**62))
@settings(deadline=None, max_examples=10)
def test_switching_one_feature_on_moves_no_other(seed):
    plain = by_visit(made(seed))
    flipped, dropped = by_visit(made(seed, flip=True)), by_visit(made(seed, dropout=0.5))
    more = by_visit(made(seed, needs={"offset": Draw("normal", "channel"), **NEEDS}))
    assert plain.keys() == flipped.keys() == dropped.keys() == more.keys()
    assert same(plain, flipped, "noise", "level", "posterior", "caption")
    assert {drawn["flip"] for drawn in flipped.values()} == {True, False}
    assert same(plain, dropped, "noise", "level", "posterior", "flip")
    assert all(drawn["caption"] in ("", plain[visit]["caption"]) for visit, drawn in dropped.items())
    assert same(plain, more, "noise", "level", "posterior", "caption", "flip")


@given(st.integers(0, 2**62))
@settings(deadline=None, max_examples=10)
def test_adding_a_picture_moves_nobody_elses_draws(seed):
    """Of the first role; a prior picture takes the shape of whom it meets, and so noise of that shape."""
    few, more = (
        {visit: drawn for visit, drawn in by_visit(batches).items() if visit[0] == "instance"}
        for batches in (made(seed), made(seed, extra=["new"]))
    )
    assert len(few.keys() & more.keys()) > 10
    assert same(few, more, "noise", "level", "posterior", "caption")


def test_a_step_is_made_alike_at_any_time():
    ahead, again = made(4, flip=True, dropout=0.3), made(4, flip=True, dropout=0.3)
    for step in (7, 0, 3):
        list(again[step])
    for one, other in zip(ahead[7], again[7], strict=True):
        assert torch.equal(one.latents, other.latents)
        assert all(torch.equal(one.draws[name], other.draws[name]) for name in NEEDS)


def test_roles_draw_apart():
    batch = made(2)[0][0]
    assert not torch.equal(*batch.draws["noise"].chunk(2))


@given(st.integers(0, 2**62), st.integers(1, 9))
@settings(deadline=None, max_examples=10)
def test_the_two_of_a_pair_share_everything_but_the_picture(seed, count):
    draws = Draws(seed)
    examples = {
        side: [Picture(f"p{i}", ("one", "another"), weight=1.0 + i) for i in range(count)]
        for side in ("chosen", "rejected")
    }
    order = Order(draws, {"chosen": [Entry(e.uid, 1, BUCKETS[0]) for e in examples["chosen"]]}, batch=2, unit_count=4)
    pictures, texts = Pictures(), Texts()
    roles = (Role("chosen"), Role("rejected", beside="chosen"))
    made = Batches(order, roles, examples, (pictures, texts, Recital(0.3, {})), NEEDS, draws, flip=True)
    for step in range(4):
        seen = len(pictures.looks)
        for batch in made[step]:
            units = len(batch.weight) // 2
            first, second = slice(seen, seen + units), slice(seen + units, seen := seen + 2 * units)
            for value in (*batch.draws.values(), batch.latents, batch.weight):
                assert torch.equal(*value.chunk(2))
            for one, other in zip(pictures.looks[first], pictures.looks[second], strict=True):
                assert one.example.uid == other.example.uid
                assert any(one.example is picture for picture in examples["chosen"])
                assert any(other.example is picture for picture in examples["rejected"])
                assert (one.flip, one.ids, one.bucket) == (other.flip, other.ids, other.bucket)
            assert texts.captions[first] == texts.captions[second]


@given(st.integers(1, 3), st.integers(0, 30))
@settings(deadline=None, max_examples=20)
def test_processes_share_a_step_without_gap_or_overlap(count, step):
    """Whatever the number of processes, the weights of each role sum to 1 over the step."""
    whole = made(1)
    seen, sums = [], {"instance": 0.0, "prior": 0.0}
    for rank in range(count):
        part = made(1)
        part.process = (rank, count)
        for batch in part[step]:
            half = len(batch.weight) // 2
            sums["instance"] += float(batch.weight[:half].sum())
            sums["prior"] += float(batch.weight[half:].sum())
        seen += [look.ids for look in part.pictures.looks]
    list(whole[step])
    assert sorted(seen) == sorted(look.ids for look in whole.pictures.looks)
    assert sums == pytest.approx({"instance": 1.0, "prior": 1.0}, abs=1e-6)


# Laws that a mutant must break


def visits_differ(batches):
    """Each look at a picture has noise, a level and a posterior of its own."""
    drawn = by_visit(batches)
    return all(len({d[purpose] for d in drawn.values()}) == len(drawn) for purpose in ("noise", "level", "posterior"))


def epochs_differ(batches):
    order = batches.order
    seen = [
        [
            [unit["instance"].index for micro in order.step(e * order.steps_per_epoch + s) for unit in micro.units]
            for s in range(order.steps_per_epoch)
        ]
        for e in (0, 1)
    ]
    return seen[0] != seen[1]


def purposes_differ(batches):
    """No two purposes of a visit get the same numbers."""
    return all(len({d["noise"], d["posterior"]}) == 2 for d in by_visit(batches).values())


def flips_move_no_noise(make):
    return same(by_visit(make(flip=False)), by_visit(make(flip=True)), "noise", "posterior", "caption")


def test_the_laws_hold():
    assert visits_differ(made(count=12))
    assert epochs_differ(made(count=12))
    assert purposes_differ(made())
    assert flips_move_no_noise(made)


class NoEpoch(Draws):
    """The epoch drops out of the keys of the order."""

    def key(self, purpose, *ids):
        at = {"order": 1, "step_order": 0, "bucket_order": 0}.get(purpose)
        return super().key(purpose, *(i for n, i in enumerate(ids) if n != at))


class NoVisit(Draws):
    """Epoch and repeat drop out of the keys of what a visit draws."""

    def key(self, purpose, *ids):
        return super().key(purpose, *(ids if "order" in purpose else ids[:2]))


class NoPurpose(Draws):
    def key(self, purpose, *ids):
        return super().key(purpose if "order" in purpose else "", *ids)


class OneStream(Draws):
    """The purpose drops out, and a visit's draws come from one stream, one after the other."""

    def generator(self, purpose, *ids):
        if "order" in purpose:
            return super().generator(purpose, *ids)
        streams = STREAMS.setdefault(id(self), {})
        return streams.setdefault(ids, super().generator("", *ids))


STREAMS: dict[int, dict[tuple, np.random.Generator]] = {}


def test_mutants_break_them():
    assert not epochs_differ(made(count=12, draws=NoEpoch(0)))
    assert not visits_differ(made(count=12, draws=NoVisit(0)))
    assert not purposes_differ(made(draws=NoPurpose(0)))
    kept = []

    def streamed(**keys):
        kept.append(OneStream(0))  # kept alive: streams are told apart by id
        return made(draws=kept[-1], **keys)

    assert not flips_move_no_noise(streamed)
