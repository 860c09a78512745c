"""Which words name a subject well: whole in every tokenizer, and rare, so that no meaning has to be unlearned first.

Ruiz et al. 2022, sec. 3.2: a common word has to be torn from its meaning, and random letters come apart into letters,
whose meaning is as strong; so they look up rare tokens of at most three letters.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .backbones.vocabulary import Vocabulary
    from .recipe import Recipe
    from .tasks.base import Subject

MOST_PIECES = 3
"""Identifiers of up to three rare tokens served the authors well."""
SUGGESTED = 3
SHAPE = re.compile(r"[bcdfghjklmnpqrstvwxz]{3}")
"""What is suggested: three letters that no dictionary has as a word."""
KNOWN = frozenset(
    """
    bmi bpd btn ccd cls clg dbz dcs dds dmx dns dsd dsp dts dvd dwp fck gbh gbp gps grl gsp hbd hdd hdr hiv hmv hpv hsv
    jpg kfc kgs khz ksh kts ldn lbj lhp lpg lsd mgs mgt mlb mlg mls mlp mph msg msn mtg mth mtv nba nbl nfl nhl npr nrg
    nsw nyc nyk pbs pcm pdf pgs phd pkg pkk pln pls pms png psn psp psv pvc pvp qtr rcb rdr rgb rmb rpg rps scp sdk sdn
    shh sks slp slr smg smh sms sng spp sql sqm ssh ssn stx svt szn tbd tbh tbl tbr tbs tls tmw tmz tps tts tvn tvs txt
    wtc wtf wwx xbl
    """.split()  # noqa: SIM905
)
"""Abbreviations that mean something that can be drawn: money, weapons, sports, games, machines, months."""
FUNCTION_WORDS = frozenset(
    "a an the of in on at with and by for from to my your his her its our this that one".split()  # noqa: SIM905
)
_WORD = re.compile(r"[\w<>-]+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tokenizers make of a word."""

    word: str
    pieces: Mapping[str, Sequence[str]]
    """By the tokenizer's name."""
    ranks: Mapping[str, int | None]
    """Its place in each vocabulary, 0 the commonest; None where it is several pieces."""
    fault: str = ""
    """Why it names nothing well; empty where it does."""


def judge(word: str, vocabularies: Sequence[Vocabulary]) -> Verdict:
    """What each vocabulary makes of `word`, and what speaks against it as an identifier."""
    pieces = {v.name: tuple(v.pieces(word)) for v in vocabularies}
    ranks = {v.name: v.rank(word) for v in vocabularies}
    faults = [fault for v in vocabularies if (fault := _fault(v, word, pieces[v.name]))]
    return Verdict(word, pieces, ranks, "; ".join(faults))


def _fault(vocabulary: Vocabulary, word: str, pieces: Sequence[str]) -> str:
    name, places, split = vocabulary.name, vocabulary.places(word), " ".join(pieces)
    common = all(place < vocabulary.common for place in places)
    if len(pieces) == 1:
        number = f"number {places[0] + 1:,} in {name}"
        return f"is a common word ({number}), so it means something already" if common else ""
    if any(len(piece) == 1 for piece in pieces):
        return f"splits into single characters in {name} ({split}), which mean something by themselves"
    if len(pieces) > MOST_PIECES:
        return f"splits into {len(pieces)} pieces in {name} ({split}); up to {MOST_PIECES} serve"
    return f"splits into common pieces in {name} ({split}), which mean something by themselves" if common else ""


def suggest(vocabularies: Sequence[Vocabulary]) -> Iterator[Verdict]:
    """Identifiers, the best first: one piece in as many vocabularies as there are, then the rarest in the first."""
    first, *others = vocabularies
    candidates = [w for w in first.whole() if SHAPE.fullmatch(w) and w not in KNOWN]
    rare = [word for word in candidates if (first.rank(word) or 0) >= first.common]
    yield from sorted((judge(word, vocabularies) for word in rare), key=lambda v: (bool(v.fault), _split(v, others)))


def _split(verdict: Verdict, others: Sequence[Vocabulary]) -> int:
    """How many pieces too many it is."""
    return sum(len(verdict.pieces[v.name]) - 1 for v in others)


def advice(recipe: Recipe) -> list[str]:
    """A line for each subject of a recipe that no rare word names, with better words. Imports no torch."""
    subjects = recipe.task.subjects(recipe.sources)
    if not subjects:
        return []
    vocabularies, _ = recipe.backbone.vocabularies()
    taught = {word for adapter in recipe.adapters for word in adapter.words()}
    lines = []
    for subject in subjects:
        trigger = recipe.data.trigger or ""
        own = names(subject, trigger)
        if taught & set(own):
            continue
        verdicts = [judge(word, vocabularies) for word in own]
        if any(not verdict.fault for verdict in verdicts):
            continue
        better = ", ".join(v.word for v in islice(suggest(vocabularies), SUGGESTED))
        what = "; ".join(f"{v.word!r} {v.fault}" for v in verdicts) or "no word in it is the subject's own"
        lines.append(f"{subject.key}: {what}. Rare words name a subject better: {better} (`tuner token` lists more)")
    return lines


def names(subject: Subject, trigger: str = "") -> list[str]:
    """The words of a subject's caption (and its trigger) that its class's caption lacks, function words aside."""
    own = Counter(_WORD.findall(f"{trigger} {subject.caption}"))
    plain = {word.lower() for word in _WORD.findall(subject.plain)}
    return [word for word in own if word.lower() not in plain | FUNCTION_WORDS]
