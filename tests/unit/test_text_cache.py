"""Stored embeddings: each caption once, without padding, in 16 bit where that loses nothing; they come back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny_sd35 import load_sd35

from tuner.backbones import Backbone
from tuner.data import packs
from tuner.data.cache import Cache
from tuner.data.encode_text import encode_captions
from tuner.data.prepared import CachedTexts
from tuner.data.unpadded import restored, trim
from tuner.watch import Watcher

CAPTIONS = ["a photo of a red dog", "", "cup on grass", "a photo of a red dog"]

values = st.one_of(st.just(0.0), st.just(-0.0), st.floats(width=32), st.floats(width=16))


def alike(one, other) -> bool:
    """The same bits, of NaN and of negative zeros too."""
    return one.shape == other.shape and (one.view(np.uint32) == other.view(np.uint32)).all()


def through_a_pack(record, folder):
    name, content = packs.build("text", {"key": record})
    (folder / name).write_bytes(content)
    pack = packs.read(folder / name, "text")
    packs.check(pack, "key", content)
    return packs.views(pack.records["key"], content), len(content)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, max_side=6), elements=values))
@settings(deadline=None, max_examples=150)
def test_what_is_stored_is_what_was_given(tmp_path_factory, array):
    record = {"text": array, "pooled": np.zeros(3, np.float32)}
    found, _ = through_a_pack(trim(record), tmp_path_factory.mktemp("pack"))
    back = restored(found)
    assert back.keys() == record.keys()
    assert all(alike(back[name], record[name]) for name in record)
    assert not any(part.flags.writeable for part in found.values())


@pytest.mark.parametrize(
    ("dtype", "kind", "size"), [(torch.bfloat16, "BF16", 2), (torch.float16, "F16", 2), (torch.float32, "F32", 4)]
)
def test_what_was_computed_in_16_bit_is_stored_in_16_bit(tmp_path, dtype, kind, size):
    array = torch.randn(64, 64, generator=torch.manual_seed(0)).to(dtype).float().numpy()
    found, length = through_a_pack({"text": array}, tmp_path)
    assert alike(found["text"], array)
    assert length < 64 * 64 * size + 500
    assert f'"{kind}"'.encode() in next(tmp_path.iterdir()).read_bytes()


def test_a_changed_type_in_the_header_is_damage(tmp_path):
    """The bytes are as many, and mean other numbers."""
    array = torch.randn(8, 8).bfloat16().float().numpy()
    _, content = packs.build("text", {"key": {"text": array}})
    file = tmp_path / packs.build("text", {"key": {"text": array}})[0]
    file.write_bytes(content.replace(b'"BF16"', b'"F16" ', 1))
    with pytest.raises(packs.Damaged, match="sha256"):
        packs.check(packs.read(file, "text"), "key", file.read_bytes())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("t5", [True, False])
def test_cached_embeddings_are_the_encoders_bit_for_bit(sd35_folder, tmp_path, dtype, t5):
    keys = {"name": "sd35", "model": str(sd35_folder), "t5_length": 20, "t5": t5}
    model = Backbone.read(keys).load(device=torch.device("cpu"), dtype=dtype)
    cache = Cache(tmp_path)
    texts = CachedTexts(cache, encode_captions(model, CAPTIONS, cache, watcher=Watcher()))
    assert sum(entry.count for entry in cache.entries()) == 3, "a caption that repeats is there once"
    found = texts(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        with torch.no_grad():
            alone = model.encode_text(model.tokenize([caption]))
        assert all(torch.equal(found[name][row], alone[name][0].float()) for name in ("text", "pooled"))


def test_padding_is_not_stored(sd35_folder, tmp_path):
    """Of 77 x 48 and 20 x 48 numbers, the CLIPs have 40 columns; a T5 that is not there has none."""
    for t5, rows in ((True, {0: (77, 40), 77: (20, 48)}), (False, {0: (77, 40)})):
        model, cache = load_sd35(sd35_folder, t5_length=20, t5=t5), Cache(tmp_path / str(t5))
        (key,) = encode_captions(model, ["a dog"], cache, watcher=Watcher()).values()
        found = cache.get("text", key)
        assert found is not None
        assert {name: part.shape for name, part in found.items()} == {
            "pooled": (40,),
            **{f"text[97x48]+{start}": shape for start, shape in rows.items()},
        }


@torch.no_grad()
def test_the_rest_of_t5s_padding_cannot_be_left_out(sd35_folder):
    """The pipeline masks nothing, so that each padded place says something of its own, which the caption changes."""
    model = load_sd35(sd35_folder, t5_length=40)
    one, other = (model.encode_text(model.tokenize([prompt]))["text"][0, 77:] for prompt in ("a dog", "a red dog"))
    tail = one[-30:]
    assert all(not torch.equal(tail[i], tail[j]) for i in range(30) for j in range(i))
    assert (one[-30:] != other[-30:]).any(1).all()
