"""A trained word means the same in plain diffusers: by its own loader on SD1.5, by the card's code on SD3.5."""

from __future__ import annotations

import re

import pytest
import torch
from models import load_sd15
from safetensors.torch import load_file, save_file
from tiny_sd35 import load_sd35

from tuner.adapters import Adapter
from tuner.adapters.textual_inversion import digest
from tuner.draws import Draws
from tuner.errors import DataError, StorageError, UsageError
from tuner.formats.about import About
from tuner.formats.load import load_adapter
from tuner.formats.unload import unload_adapter

TOKEN = "<toy>"
PROMPTS = ["a photo of <toy>", "two <toy> and a <toy>, a dog on grass", "a dog"]
LENGTH = 24


class Taught:
    """A model with a word that one gradient step moved, and the folder of its files."""

    def __init__(self, family, model, folder, **settings):
        self.family, self.model, self.folder = family, model, folder
        given = {"name": "textual_inversion", "token": TOKEN, "init": "dog", "vectors": 3, **settings}
        self.adapter = Adapter.read(given)
        self.attachment = self.adapter.attach(model, keep_base=True, draws=Draws(0))
        cond = model.encode_text(model.tokenize(PROMPTS))
        sum(tensor.square().sum() for tensor in cond.tensors.values()).backward()
        self.state = self.attachment.state_dict()
        for group in self.attachment.param_groups():
            for p in group.params.values():
                p.data -= 0.2 * p.grad / p.grad.norm()
        about = About(name="run", family=family, base="toybox", prompt=f"a photo of {TOKEN}")
        self.files = self.attachment.export(folder, self.state, about)

    @property
    def file(self):
        return self.files[0]

    def read(self, prompts=PROMPTS):
        with torch.no_grad():
            return self.model.encode_text(self.model.tokenize(prompts)).tensors


def fresh(family, sd35_folder):
    return load_sd15("toybox") if family == "sd15" else load_sd35(sd35_folder, t5_length=LENGTH)


@pytest.fixture(params=["sd15", "sd35", "sd35 and t5"])
def taught(request, tmp_path, sd35_folder) -> Taught:
    family = request.param[:4]
    return Taught(family, fresh(family, sd35_folder), tmp_path, t5=request.param.endswith("t5"))


def encoded(pipe, prompts, **other):
    """What the pipeline itself makes of prompts, by the names of `Cond`."""
    with torch.no_grad():
        if "text_encoder_2" not in pipe.components:
            return {"text": pipe.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)[0]}
        other = {"prompt_2": None, "prompt_3": None, **other}
        text, _, pooled, _ = pipe.encode_prompt(
            prompts, device="cpu", do_classifier_free_guidance=False, max_sequence_length=LENGTH, **other
        )
        return {"text": text, "pooled": pooled}


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name


def legacy(pipe):
    """The end mark as the configurations of the published models have it."""
    for name in ("text_encoder", "text_encoder_2"):
        if "text_encoder_2" in pipe.components:
            pipe.components[name].text_model.eos_token_id = 2


def test_the_pipeline_reads_prompts_as_the_trained_model_does(taught, sd35_folder):
    pipe = fresh(taught.family, sd35_folder).pipeline()
    legacy(pipe)
    load_adapter(pipe, taught.folder)
    same(encoded(pipe, PROMPTS), taught.read())


def test_words_behind_the_new_one_reach_the_pooled_vector(taught, sd35_folder):
    """With the legacy end mark transformers would pool at the new word, and not read on."""
    if taught.family == "sd15":
        pytest.skip("the UNet reads no pooled vector")
    pipe = fresh(taught.family, sd35_folder).pipeline()
    legacy(pipe)
    load_adapter(pipe, taught.folder)
    one, two = (encoded(pipe, [f"a {TOKEN} {word}"])["pooled"] for word in ("dog", "cup on grass"))
    assert (one - two).abs().max() > 1e-3


def test_diffusers_own_loader_takes_the_file(taught, sd35_folder):
    pipe = fresh(taught.family, sd35_folder).pipeline()
    if taught.family == "sd35":
        assert not hasattr(pipe, "load_textual_inversion"), "then the card should say so"
        return
    pipe.load_textual_inversion(str(taught.folder), weight_name=taught.file.name)
    same(encoded(pipe, PROMPTS), taught.read())


def test_the_code_of_the_card_gives_the_same(taught, sd35_folder, monkeypatch):
    """The last block of code runs as it stands up to its picture."""
    text = (taught.folder / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1]
    steps, picture = code.split("\nprompt = " if taught.family == "sd35" else "\nimage = ")
    monkeypatch.chdir(taught.folder)
    folder = sd35_folder if taught.family == "sd35" else None
    if folder:
        monkeypatch.setattr("tuner.toybox.folder", lambda name: folder)
    space: dict = {}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    exec(compile(steps, "README.md", "exec"), space)
    if taught.family == "sd15":
        same(encoded(space["pipe"], PROMPTS), taught.read())
        return
    # ten lines beyond what any use of the pipeline takes
    own = [line for line in steps.split("\nnames = ")[1].splitlines() if line.strip()]
    assert len(own) <= 10
    written = [prompt.replace(TOKEN, " ".join(space["names"])) for prompt in PROMPTS]
    third = {"prompt_3": PROMPTS} if "prompt_3=prompt" in picture else {}
    same(encoded(space["pipe"], written, **third), taught.read())


def test_every_other_row_is_bitwise_what_it_was(taught, sd35_folder):
    base = fresh(taught.family, sd35_folder)
    taught.attachment.require_still()
    for name, table in taught.attachment.tables.items():
        assert torch.equal(table.weight, base.text_encoders[name].get_input_embeddings().weight)
    pipe = fresh(taught.family, sd35_folder).pipeline()
    load_adapter(pipe, taught.folder)
    for name in taught.attachment.tables:
        own = base.text_encoders[name].get_input_embeddings().weight
        assert torch.equal(pipe.components[name].get_input_embeddings().weight[: len(own)], own)


def test_a_row_that_moved_is_noticed(taught):
    table = next(iter(taught.attachment.tables.values()))
    before = digest(table.weight)
    with torch.no_grad():
        table.weight[3, 1] += 1e-7
    assert digest(table.weight) != before
    with pytest.raises(StorageError, match="vocabulary of the text_encoder changed"):
        taught.attachment.verify(taught.files, taught.state)


def test_verifying_leaves_the_model_and_the_generators_alone(taught):
    before, state = taught.read(), torch.random.get_rng_state()
    words = {name: len(tokenizer) for name, tokenizer in taught.model.tokenizers.items()}
    taught.attachment.verify(taught.files, taught.state)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {name: len(tokenizer) for name, tokenizer in taught.model.tokenizers.items()} == words
    after = taught.read()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for group in taught.attachment.param_groups() for p in group.params.values())


@pytest.mark.parametrize("damage", ["another word", "one value", "other order"])
def test_verifying_finds_a_wrong_file(taught, damage):
    tensors = load_file(taught.file)
    key = sorted(tensors)[0]
    from tuner.formats.container import read_header

    metadata = dict(read_header(taught.file).metadata)
    if damage == "another word":
        metadata["tuner_token"] = "<other>"
    elif damage == "one value":
        tensors[key][1, 2] += 1e-3
    else:
        tensors[key] = tensors[key].flip(0).contiguous()
    save_file(tensors, taught.file, metadata)
    with pytest.raises(StorageError, match="loaded back"):
        taught.attachment.verify(taught.files, taught.state)


def test_a_word_is_loaded_once_and_at_full_strength(taught, sd35_folder):
    pipe = fresh(taught.family, sd35_folder).pipeline()
    with pytest.raises(UsageError, match="no strength such as 0.5"):
        load_adapter(pipe, taught.folder, strength=0.5)
    load_adapter(pipe, taught.folder)
    with pytest.raises(UsageError, match="has a word '<toy>' already"):
        load_adapter(pipe, taught.folder)


def test_what_cannot_be_loaded_leaves_the_pipeline_as_it_was(taught, sd35_folder, tmp_path):
    other = tmp_path / "wide"
    other.mkdir()
    save_file({key: torch.randn(2, 999) for key in load_file(taught.file)}, other / "toy.safetensors")
    model = fresh(taught.family, sd35_folder)
    pipe = model.pipeline()
    with pytest.raises(DataError, match="999 values"):
        load_adapter(pipe, other / "toy.safetensors")
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "toy.safetensors").write_bytes(taught.file.read_bytes())
    before = {name: len(tokenizer) for name, tokenizer in model.tokenizers.items()}
    broken = {"unet.nowhere.lora_A.weight": torch.randn(2, 4), "unet.nowhere.lora_B.weight": torch.randn(4, 2)}
    save_file(broken, tmp_path / "both" / "pytorch_lora_weights.safetensors")
    with pytest.raises(DataError):
        load_adapter(pipe, tmp_path / "both")
    assert {name: len(tokenizer) for name, tokenizer in model.tokenizers.items()} == before
    load_adapter(pipe, taught.folder)
    same(encoded(pipe, PROMPTS), taught.read())


def test_a_word_is_taken_off_by_its_adapters_name(taught, sd35_folder, tmp_path):
    pipe = fresh(taught.family, sd35_folder).pipeline()
    before = encoded(pipe, PROMPTS)
    rows = {name: len(pipe.components[name].get_input_embeddings().weight) for name in taught.attachment.tables}
    second = tmp_path / "second"
    second.mkdir()
    own = load_file(taught.file)
    save_file({"<two>" if key == TOKEN else key: t * 2 for key, t in own.items()}, second / "two.safetensors",
              {"tuner_token": "<two>"})  # fmt: skip
    load_adapter(pipe, taught.folder, name="one")
    load_adapter(pipe, second / "two.safetensors", name="two")
    with pytest.raises(UsageError, match=r"<two> was loaded after 'one'"):
        unload_adapter(pipe, "one")
    unload_adapter(pipe, "two")
    same(encoded(pipe, PROMPTS), taught.read())
    unload_adapter(pipe, "one")
    after = encoded(pipe, PROMPTS)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: len(pipe.components[name].get_input_embeddings().weight) for name in rows} == rows
    with pytest.raises(UsageError, match="no adapter named 'one'"):
        unload_adapter(pipe, "one")
    load_adapter(pipe, taught.folder, name="one")
    same(encoded(pipe, PROMPTS), taught.read())
