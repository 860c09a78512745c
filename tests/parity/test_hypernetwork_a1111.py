"""Hypernetworks compute what A1111's do, and its `.pt` goes there and back bit for bit."""

from __future__ import annotations

import copy
import re
import zipfile

import pytest
import torch
from a1111_hypernetwork import attention, comfy_network, network

from tuner.adapters import Adapter
from tuner.draws import Draws
from tuner.errors import DataError, UsageError
from tuner.formats.about import About
from tuner.formats.container import read_header
from tuner.formats.hypernetwork import describe, from_words, read_weights, to_words
from tuner.formats.hypernetwork_pt import export_pt, import_pt
from tuner.formats.load import load_adapter
from tuner.nn.hypernetwork import Hypernetwork

OPTIONS = {
    "as A1111 offers it": {},
    "deep": {"layer_structure": [1, 2, 0.5, 1], "activation": "mish"},
    "normed": {"activation": "relu", "layer_norm": True, "dropout": 0.3},
    "to the end": {"activation": "swish", "activate_output": True, "layer_structure": [1, 3, 3, 1], "dropout": 0.1},
    "all of it": {"activation": "leakyrelu", "activate_output": True, "layer_norm": True, "dropout": [0.2]},
    "one layer": {"layer_structure": [1, 1], "activation": "tanh", "activate_output": True},
}


def made(options, sizes=(6, 10), seed=0):
    """A hypernetwork whose every weight counts, and its words."""
    adapter = Adapter.read({"name": "hypernetwork", "init": "kaiming_normal", **options})
    found = Hypernetwork(adapter.structure, sizes).eval()
    found.initialise("kaiming_normal", Draws(seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in found.weights().values():
            if weight.ndim == 1:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    return found, to_words(adapter.structure, "KaimingNormal")


def pairs_of(found) -> dict:
    return {
        width: tuple({n: v.detach() for n, v in found.pairs[str(width)][side].state_dict().items()} for side in "kv")
        for width in found.widths
    }


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("strength", [1.0, 0.35, -2.0])
def test_a_network_is_a1111_s(options, strength):
    found, words = made(options)
    found.strength = strength
    generator = torch.Generator().manual_seed(1)
    for width, pair in pairs_of(found).items():
        x = torch.randn(2, 7, width, generator=generator)
        for side, weights in zip("kv", pair, strict=True):
            want = network(weights, words, x, strength)
            assert torch.allclose(found(x, side).detach(), want, atol=2e-6, rtol=1e-5)
            assert (want - x).abs().max() > 1e-3
    assert torch.equal(found(torch.ones(1, 1, 7), "k"), torch.ones(1, 1, 7)), "other widths pass"


def save(path, options, sizes, family="sd15"):
    """A hypernetwork file, as a run writes it."""
    found, words = made(options, sizes)
    from tuner.formats.hypernetwork import pack

    tensors = {f"hypernetwork.{name}": value.detach() for name, value in found.weights().items()}
    path.write_bytes(pack(tensors, from_words(words), "KaimingNormal", family, {"ss_steps": "12"}))
    return found, words


@pytest.mark.parametrize("options", [OPTIONS["as A1111 offers it"], OPTIONS["normed"]], ids=["plain", "normed"])
def test_attention_in_a_unet_is_a1111_s(options, tmp_path, sd15_model):
    """Both attentions of a real block: the picture's own, and the text's, with the pair that its width picks."""
    file = tmp_path / "dog.hypernetwork.safetensors"
    found, words = save(file, options, (48, 96))
    load_adapter(sd15_model.pipeline(), file, strength=0.7)
    block = sd15_model.denoiser.down_blocks[0].attentions[0].transformer_blocks[0]
    generator = torch.Generator().manual_seed(2)
    x, text = torch.randn(2, 9, 48, generator=generator), torch.randn(2, 5, 96, generator=generator)
    for layer, context in ((block.attn1, None), (block.attn2, text)):
        with torch.no_grad():
            mine = layer(x, encoder_hidden_states=context)
            want = attention(layer, pairs_of(found), words, x, context, 0.7)
            plain = attention(layer, {}, words, x, context)
        assert torch.allclose(mine, want, atol=1e-5, rtol=1e-4)
        assert (want - plain).abs().max() > 1e-3


def test_every_attention_of_the_unet_is_reached(tmp_path, sd15_model):
    file = tmp_path / "dog.hypernetwork.safetensors"
    save(file, {}, (48, 96))
    calls = []
    load_adapter(sd15_model.pipeline(), file)
    chain = sd15_model.denoiser.hypernetworks
    real = chain.rewrite
    chain.rewrite = lambda x, side: calls.append((x.shape[-1], side)) or real(x, side)
    with torch.no_grad():
        sd15_model.denoiser(torch.randn(1, 4, 16, 16), torch.tensor([3]), torch.randn(1, 77, 96))
    attentions = [n for n, _ in sd15_model.denoiser.named_modules() if re.search(r"attn[12]$", n)]
    assert len(calls) == 2 * len(attentions)
    assert {side for _, side in calls} == {"k", "v"}
    assert {width for width, _ in calls} == {48, 96}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_pt_there_and_back_is_bitwise(options, tmp_path):
    file, pt, back = tmp_path / "a.hypernetwork.safetensors", tmp_path / "a.pt", tmp_path / "b.hypernetwork.safetensors"
    save(file, options, (6, 10))
    export_pt(file, read_header(file), pt)
    import_pt(pt, back)
    assert describe(back, read_header(back)) == describe(file, read_header(file))
    first, second = read_weights(file), read_weights(back)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    again = tmp_path / "again.pt"
    export_pt(back, read_header(back), again)
    assert tensors_of(again) == tensors_of(pt)


def tensors_of(pt):
    tree = torch.load(pt, weights_only=True)
    pairs = [(key, side, n, v.tolist()) for key in tree if type(key) is int for side in (0, 1)
             for n, v in tree[key][side].items()]  # fmt: skip
    words = {k: v for k, v in tree.items() if isinstance(k, str) and k != "name"}
    return pairs, words


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a1111_and_comfyui_read_the_pt(options, tmp_path):
    """Both rebuild the networks of the file alone; ComfyUI's is another one in the case that the export warns of."""
    file, pt = tmp_path / "a.hypernetwork.safetensors", tmp_path / "dog.pt"
    found, _ = save(file, options, (6, 10))
    written = export_pt(file, read_header(file), pt)
    tree = torch.load(pt, weights_only=True)
    assert {"step", "name", "layer_structure", "activation_func", "is_layer_norm", "weight_initialization", "use_dropout",
            "activate_output", "last_layer_dropout", "dropout_structure", "sd_checkpoint", "sd_checkpoint_name",
            "optional_info"} <= tree.keys()  # fmt: skip
    assert (tree["name"], tree["step"]) == ("dog", 12)
    words = {key: value for key, value in tree.items() if isinstance(key, str)}
    differs = False
    for width in found.widths:
        x = torch.randn(1, 4, width, generator=torch.Generator().manual_seed(3))
        for side, weights in zip("kv", tree[width], strict=True):
            mine = found(x, side).detach()
            assert torch.allclose(mine, network(weights, words, x), atol=2e-6, rtol=1e-5)
            differs |= not torch.allclose(mine, comfy_network(weights, words, x), atol=2e-6, rtol=1e-5)
    assert differs == any("ComfyUI computes something else" in line for line in written.warnings)


def test_the_archive_passes_a1111_s_check(tmp_path):
    """modules/safe.py at 0593384: these names of entries alone, and no name of Python's but these."""
    import pickletools

    file, pt = tmp_path / "a.hypernetwork.safetensors", tmp_path / "a.pt"
    save(file, {}, (6,))
    export_pt(file, read_header(file), pt)
    with zipfile.ZipFile(pt) as archive:
        names = archive.namelist()
        assert all(re.match(r"^([^/]+)/((data/\d+)|version|(data\.pkl))$", name) for name in names)
        (pickled,) = (name for name in names if name.endswith("/data.pkl"))
        asked = {arg for op, arg, _ in pickletools.genops(archive.read(pickled)) if op.name == "GLOBAL"}
        stacked = [op.name for op, _, _ in pickletools.genops(archive.read(pickled)) if op.name == "STACK_GLOBAL"]
    assert not stacked
    assert asked <= {"torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict"}
    twin = tmp_path / "twin.pt"
    export_pt(file, read_header(file), twin)
    assert {n: zipfile.ZipFile(pt).read(n) for n in names if not n.endswith("data.pkl")} == {
        n: zipfile.ZipFile(twin).read(n) for n in names if not n.endswith("data.pkl")
    }


WORDS = {
    "layer_structure": [1, 2, 1], "activation_func": "relu", "is_layer_norm": False, "activate_output": False,
    "use_dropout": False, "step": 7, "name": "old",
}  # fmt: skip


def pt(path, options=None, sizes=(6,), drop=(), **changes):
    """A `.pt` as A1111 writes it, with changes."""
    found, words = made(options or {"activation": "relu"}, sizes)
    tree = pairs_of(found)
    tree |= {**WORDS, **words, **changes}
    torch.save({key: value for key, value in tree.items() if key not in drop}, path)
    return path, found


def test_old_files_say_less(tmp_path):
    """Files of 2022: no activation, no dropout list, `linear1` and `linear2`; what is missing has A1111's default."""
    found, _ = made({}, (6,))
    old = {"linear.0": "linear1", "linear.1": "linear2"}
    tree = {
        6: tuple({old[n.rpartition(".")[0]] + "." + n.rpartition(".")[2]: v for n, v in w.items()} for w in pairs_of(found)[6])
    }  # fmt: skip
    torch.save(tree | {"step": 100, "name": "old", "sd_checkpoint_name": "/home/me/models/nai"}, tmp_path / "old.pt")
    made_file = import_pt(tmp_path / "old.pt", tmp_path / "new.safetensors")
    assert made_file.found.structure.layers == (1, 2, 1)
    weights = read_weights(tmp_path / "new.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in found.weights().items())
    told = read_header(tmp_path / "new.safetensors").metadata
    assert (told["ss_steps"], told["ss_sd_model_name"], told["modelspec.title"]) == ("100", "nai", "old")


@pytest.mark.parametrize(
    ("flags", "want"),
    [
        ({"use_dropout": False}, (0, 0, 0)),
        ({"use_dropout": True}, (0.3, 0, 0)),
        ({"use_dropout": True, "last_layer_dropout": True}, (0.3, 0.3, 0)),
    ],
    ids=["none", "not the last", "the last, too"],
)
def test_flags_of_dropout_become_a_list(tmp_path, flags, want):
    inner = list(want[:2])
    path, _ = pt(
        tmp_path / "a.pt", {"layer_structure": [1, 2, 2, 1], "activation": "relu", "dropout": inner},
        drop=("dropout_structure",), **flags,
    )  # fmt: skip
    assert import_pt(path, tmp_path / "a.safetensors").found.structure.dropout == want


def test_a_missing_word_on_the_output_means_that_it_is_activated(tmp_path):
    path, _ = pt(tmp_path / "a.pt", {"activation": "relu", "activate_output": True}, drop=("activate_output",))
    assert import_pt(path, tmp_path / "a.safetensors").found.structure.activate_output


def test_widths_of_sd2_are_left_out_and_said(tmp_path):
    path, _ = pt(tmp_path / "a.pt", {"activation": "relu"}, sizes=(768, 1024))
    done = import_pt(path, tmp_path / "a.safetensors")
    assert done.found.widths == (768,)
    assert "1024" in done.warnings[0]
    path, _ = pt(tmp_path / "b.pt", {"activation": "relu"}, sizes=(1024,))
    with pytest.raises(DataError, match="Stable Diffusion 2"):
        import_pt(path, tmp_path / "b.safetensors")


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch evil",)


def sparse(tree):
    tree[6][0]["linear.0.weight"] = torch.zeros(12, 6).to_sparse()


def stretched(tree):
    tree[6][0]["linear.0.weight"] = torch.zeros(1).expand(12, 6)


BROKEN = {
    "code": (lambda tree: tree.update(name=Evil()), "without running"),
    "a fork": (lambda tree: tree.update(skip_connection=True), "fork"),
    "glu": (lambda tree: tree.update(activation_func="glu"), "activation 'glu'"),
    "prelu": (lambda tree: tree.update(activation_func="prelu"), "activation 'prelu'"),
    "a structure of text": (lambda tree: tree.update(layer_structure="1, 2, 1"), "layer_structure"),
    "a huge structure": (lambda tree: tree.update(layer_structure=[1, 1e9, 1]), "layer_structure"),
    "other layers": (lambda tree: tree.update(layer_structure=[1, 3, 1]), "shape"),
    "one network": (lambda tree: tree.update({6: (tree[6][0],)}), "no pair"),
    "a list of numbers": (lambda tree: tree.update({6: [1, 2]}), "no pair"),
    "a missing bias": (lambda tree: tree[6][1].pop("linear.2.bias"), "missing"),
    "one too many": (lambda tree: tree[6][1].update({"linear.9.bias": torch.zeros(6)}), "one too many"),
    "no tensor": (lambda tree: tree[6][0].update({"linear.0.bias": 3}), "no tensor"),
    "whole numbers": (lambda tree: tree[6][0].update({"linear.0.bias": torch.zeros(12).long()}), "floats"),
    "not finite": (lambda tree: tree[6][0]["linear.0.bias"].fill_(torch.inf), "not finite"),
    "sparse": (sparse, "floats"),
    "claimed numbers": (stretched, "claims more"),
    "no widths": (lambda tree: tree.pop(6), "no hypernetwork"),
    "negative": (lambda tree: tree.update({-6: tree.pop(6)}), "shape|wide|missing|width"),
    "a word for dropout": (lambda tree: tree.update(dropout_structure=[0, 1.0, 0]), "dropout_structure"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_meant_is_refused_by_name(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, said = BROKEN[kind]
    path, _ = pt(tmp_path / "a.pt")
    tree = copy.deepcopy(torch.load(path, weights_only=True))
    change(tree)
    torch.save(tree, path)
    with pytest.raises(DataError, match=said) as caught:
        import_pt(path, tmp_path / "a.safetensors")
    assert str(path) in caught.value.message
    assert not (tmp_path / "a.safetensors").exists()
    assert not (tmp_path / "evil").exists()


def test_nothing_is_written_over(tmp_path):
    path, _ = pt(tmp_path / "a.pt")
    (tmp_path / "a.safetensors").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        import_pt(path, tmp_path / "a.safetensors")
    import_pt(path, tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="is there already"):
        export_pt(tmp_path / "b.safetensors", read_header(tmp_path / "b.safetensors"), path)


def test_a_pt_of_sd35_does_not_exist(tmp_path):
    save(tmp_path / "a.safetensors", {}, (24,), family="sd35")
    with pytest.raises(DataError, match="Stable Diffusion 1 alone"):
        export_pt(tmp_path / "a.safetensors", read_header(tmp_path / "a.safetensors"), tmp_path / "a.pt")


def test_a_pt_is_refused_everywhere_but_by_import(tmp_path, sd15_model):
    path, _ = pt(tmp_path / "a.pt")
    with pytest.raises(DataError, match="can run code") as caught:
        load_adapter(sd15_model.pipeline(), path)
    assert "tuner import" in caught.value.hint


def test_the_card_s_about_is_used(tmp_path):
    """`metadata: none` keeps only what loading needs."""
    from tuner.formats.hypernetwork import write_hypernetwork

    found, words = made({}, (6,))
    state = {f"hypernetwork.{name}": value.detach() for name, value in found.weights().items()}
    file, card = write_hypernetwork(tmp_path, state, from_words(words), "normal", About("dog", metadata="none"))
    assert file.name == "dog.hypernetwork.safetensors"
    assert read_header(file).metadata.keys() == {"format", "tuner_backbone", "hypernetwork"}
    assert "tuner.load_adapter(pipe, 'dog.hypernetwork.safetensors'" in card.read_text()
