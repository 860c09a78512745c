"""A broken recipe gives a message with a place: no traceback, no hang, whatever is in the file."""

from __future__ import annotations

import copy
import json
import os
import random
import time

import pytest

from tuner.errors import RecipeError, UsageError
from tuner.recipe_file import load_recipe, read_recipe
from tuner.shipped import shipped
from tuner.yaml_text import parse

TEXTS = [path.read_bytes() for path in shipped().values()]
SCRAPS = [
    b"&a ", b"*a ", b"!!int ", b"!!python/name:os.system ", b"<<: ", b"- ", b": ", b"? ", b"{", b"}", b"[", b"]", b"'", b'"', b"|\n", b">\n", b"#",
    b"---\n", b"...\n", b"%YAML 1.1\n", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\x85", b"\xe2\x80\xa8", b"1e999", b".nan", b"-.inf", b"0o17", b"0x1F",
    b"9" * 5000, b"2024-01-01", b"12:30:45", b"~", b"null", b"yes", b"\\x41", b'"\\ud800"', b'"\\U00110000"', b"@", b"`", b",", b"=", b"\xf0\x9f\x90\x95",
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 1, 3.0, 3.5, 1e308, 10**18, 10**30, "", "no", "400", "1e-4", "False", "x" * 5000, "\U0001f415", "a\nb", "a: b", "#", "../../etc", [], {}, [[]], [None],
    [{}], {"name": None}, {"name": "lora"}, {"name": []}, {"": ""}, [1, "two", [3]], {"epochs": 0}, {"epochs": "x"}, {"path": 5}, ["a"] * 300, "toybox", "cosine", "{text}", "{0.__class__}",
]  # fmt: skip


def damaged_bytes(data: bytes, dice: random.Random) -> bytes:
    """The recipe with one to four edits of its bytes."""
    for _ in range(dice.randint(1, 4)):
        at, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + 60)
        lines = data.splitlines(keepends=True)
        byte = dice.randrange(32, 127) if dice.random() < 0.8 else dice.randrange(256)
        data = dice.choice([
            lambda at=at, data=data: data[:at] + dice.choice(SCRAPS) + data[at:],
            lambda at=at, byte=byte, data=data: data[:at] + bytes([byte]) + data[at + 1 :],
            lambda at=at, end=end, data=data: data[:at] + data[end:],
            lambda at=at, end=end, data=data: data[:at] + data[at:end] * dice.randint(2, 40) + data[end:],
            lambda data=data, lines=lines: b"".join(dice.sample(lines, len(lines))) if dice.random() < 0.2 else data[: dice.randrange(len(data) + 1)],
            lambda lines=lines: b"".join(b" " * dice.randint(0, 3) + line for line in lines),
            lambda data=data: data.replace(*dice.choice([(b"  ", b"\t"), (b": ", b":"), (b"\n", b"\r"), (b"a", b"\xc3\xa4"), (b"name", b"nmae")])),
        ])()  # fmt: skip
        data = data or b"\n"
    return data


def damaged_tree(data: bytes, dice: random.Random) -> bytes:
    """The recipe's values with one to five of them replaced, removed, renamed, wrapped or moved."""
    tree = copy.deepcopy(parse(data.decode()).value)
    for _ in range(dice.randint(1, 5)):
        holder, key = dice.choice(list(places(tree)) or [(tree, "x")])
        edit = dice.randrange(6)
        if edit == 0 and key in holder if isinstance(holder, dict) else False:
            del holder[key]
        elif edit == 1 and isinstance(holder, dict):
            holder[key[:1] + key[2:] + key[1:2]] = holder.pop(key, None)
        elif edit == 2:
            holder[key] = [holder[key]] if not isinstance(holder, dict) or key in holder else []
        elif edit == 3:
            holder[key] = {"name": holder[key]} if not isinstance(holder, dict) or key in holder else {}
        elif edit == 4:
            _, source = dice.choice(list(nodes(tree)))
            holder[key] = copy.deepcopy(source)
        else:
            holder[key] = copy.deepcopy(dice.choice(VALUES))
    return json.dumps(tree, indent=dice.choice([None, 1]), ensure_ascii=dice.random() < 0.2).encode("utf-8", "replace")


def places(node: object):
    if isinstance(node, (dict, list)):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield node, key
            yield from places(child)


def nodes(node: object):
    yield None, node
    for holder, key in places(node):
        yield key, holder[key]


def judge(data: bytes, tmp_path, number: object, overrides: tuple[str, ...] = (), rehearse: bool = False) -> str:
    """'read' or 'refused'; anything else fails."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(data)
    name = os.path.relpath(path) if path.is_relative_to(os.getcwd()) else str(path)
    start = time.process_time()
    try:
        load_recipe(path, overrides, rehearse=rehearse)
        outcome = "read"
    except RecipeError as error:
        outcome = "refused"
        assert error.problems
        for line in error.problems:
            assert "\n" not in line and "Traceback" not in line, (number, line)
            assert line.startswith((f"{name}:", "override ", "--rehearse: ")), (number, line)
            assert len(line) < 2000, (number, line)
    assert time.process_time() - start < 1, number
    return outcome


def check_mutations(numbers: range, tmp_path) -> None:
    outcomes = {"read": 0, "refused": 0}
    for number in numbers:
        dice = random.Random(number)
        damage = damaged_tree if number % 2 else damaged_bytes
        outcomes[judge(damage(dice.choice(TEXTS), dice), tmp_path, number, rehearse=number % 5 == 0)] += 1
    assert outcomes["refused"] > len(numbers) / 2, outcomes
    assert outcomes["read"] > len(numbers) / 100, outcomes


def test_300_mutated_recipes(tmp_path):
    check_mutations(range(300), tmp_path)


@pytest.mark.slow
def test_2000_mutated_recipes(tmp_path):
    check_mutations(range(10_000, 12_000), tmp_path)


BOMBS = {
    "empty": b"",
    "blank": b" \n\n# nothing\n",
    "nul": b"backbone: sd15\n\0\0\0",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
    "utf-16": "backbone: sd15".encode("utf-16"),
    "latin-1": "data: {instance: {caption: Hündchen}}".encode("latin-1"),
    "too large": b"a: " + b"x" * 300_000,
    "just fits, one word": b"a: " + b"x" * 262_000,
    "just fits, words": b"a: " + b"x y " * 65_000,
    "just fits, quoted": b"a: '" + b"x y " * 65_000 + b"'",
    "just fits, comment": b"#" * 262_000,
    "just fits, keys": b"".join(b"k%d: 1\n" % i for i in range(22_000)),
    "just fits, unknown keys": b"train:\n" + b"".join(b"  step%d: 1\n" % i for i in range(4_000)),
    "just fits, list": b"sample: {prompts: [" + b"a, " * 80_000 + b"]}",
    "just fits, blanks": b"a: 1\n" + b" " * 262_000,
    "just fits, new lines": b"\n" * 262_000,
    "long key": b"k" * 200_000 + b": 1",
    "long unknown name": b"task: " + b"dreambooth" * 20_000,
    "flow lists": b"[" * 100_000,
    "flow mappings": b"{a: " * 50_000,
    "block lists": b"- " * 100_000,
    "block mappings": b"".join(b" " * i + b"a:\n" for i in range(700)),
    "complex keys": b"? " * 100_000,
    "depth 33": b"a: " + b"[" * 33 + b"]" * 33,
    "billion laughs": b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
    "self alias": b"a: &a [*a]",
    "merge": b"train: {<<: {steps: 3}}",
    "tag": b"train: !!python/object/apply:os.system [echo]",
    "binary tag": b"a: !!binary aGVsbG8=",
    "set": b"train: !!set {steps, batch}",
    "ordered map": b"train: !!omap [steps: 3]",
    "date": b"train: {steps: 2024-01-01}",
    "base 60": b"train: {steps: 12:30:45}",
    "octal": b"train: {steps: 0o17}",
    "two documents": b"a: 1\n---\nb: 2\n",
    "old version": b"%YAML 1.1\n---\na: 1\n",
    "strange version": b"%YAML 99999999999999999999.9\n---\na: 1\n",
    "directive": b"%TAG ! tag:example.org,2026:\n---\na: 1\n",
    "list root": b"- a\n- b\n",
    "word root": b"hello",
    "null root": b"~",
    "huge number": b"train: {steps: " + b"9" * 5000 + b"}",
    "huge exponent": b"train: {lr: 1e" + b"9" * 5000 + b"}",
    "huge escape": b'a: "\\U00110000"',
    "surrogate": b'a: "\\ud800"',
    "number key": b"1: 2",
    "null key": b"~: 2",
    "list key": b"[a, b]: 2",
    "empty key": b'"": 2',
    "dotted key": b'"train.steps": 2',
    "only a quote": b'"',
    "carriage returns": b"a: 1\rb: 2\r",
    "anchors without end": b"&" * 100_000,
    "stars without end": b"*" * 100_000,
    "bangs without end": b"!" * 100_000,
    "block scalar header": b"a: |" + b"9" * 100_000,
    "percent escapes": b"a: !<" + b"%41" * 50_000 + b"> x",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name, tmp_path):
    assert judge(BOMBS[name], tmp_path, name) == "refused"


EDITS = [
    "", "=", "a", "=3", ".=3", "a..b=3", "train.steps", "train.steps=", "train.steps=3 #x", "train.steps=#", "train.steps=[", "train.steps='", "train.steps=&a 1", "train.steps=*a",
    "train.steps=!!int 3", "train.steps=---", "train.steps=1e999", "train.steps=" + "9" * 6000, "train.steps=" + "[" * 5000, "train.steps=a: b: c", "train.steps={a: 1, a: 2}",
    "a." * 5000 + "b=1", "train.steps.x=1", "adapters.9.rank=1", "adapters.99999999999999999999.rank=1", "adapters.-1.rank=1", "adapters.0.0.0=1", "0=1", "data.instance.1=x", "train.0=1",
    "backbone=null", "train=null", "adapters=[]", "adapters=[[]]", "data=5", "data.instance=[]", "sample.prompts.0.x=1", "task.name.x=1", "\0=1", "train.steps=\0", "train.steps=\ud800",
    "train.steps=\n\n  - a\n b", "train.steps=" + "x" * 300_000, "task.\n=3", "=" * 100_000, "train.²=1", "adapters.².rank=1",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(EDITS)))
@pytest.mark.parametrize("rehearse", [False, True])
def test_broken_overrides_are_refused(number, rehearse, tmp_path):
    assert judge(TEXTS[0], tmp_path, EDITS[number][:100], (EDITS[number],), rehearse=rehearse) == "refused"


@pytest.mark.parametrize(
    "source", ["", "nowhere", "nowhere/at/all.yaml", "x" * 100_000, "a\0b", ".", "recipes", "~", "dreamboth_lora"]
)
def test_a_source_that_is_no_recipe_is_refused(source):
    with pytest.raises(UsageError):
        load_recipe(source)


def test_text_with_lone_surrogates_is_refused():
    with pytest.raises(RecipeError, match="unprintable"):
        read_recipe("a: \ud800", "recipe.yaml")
