"""Hypernetworks in diffusers: with a LoRA in either order, several at once, taken off again, on both backbones."""

from __future__ import annotations

import copy

import pytest
import torch

import tuner
from tuner.adapters import Adapter
from tuner.draws import Draws
from tuner.errors import DataError, StorageError, UsageError
from tuner.formats.about import About
from tuner.formats.container import read_header
from tuner.formats.hypernetwork import pack
from tuner.formats.inspect import inspect_file
from tuner.formats.lora import write_lora
from tuner.formats.verify_hypernetwork import verify_hypernetwork
from tuner.nn.hypernetwork import Hypernetwork
from tuner.nn.hypernetwork_structure import Structure

KEYS = {"sd15": ("to_k", "to_v", 96), "sd35": ("add_k_proj", "add_v_proj", 24)}


@pytest.fixture(params=["sd15", "sd35"])
def model(request):
    """A fresh model; the test may do what it likes with it."""
    found = request.getfixturevalue(f"{request.param}_model")
    for module in found.components.values():
        module.requires_grad_(False).eval()
    return found


def hypernetwork(folder, family, name="dog", seed=0, width=None, spread=0.1):
    width = width or KEYS[family][2]
    network = Hypernetwork(Structure(activation="tanh"), [width])
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"hypernetwork.{n}": torch.randn(w.shape, generator=generator) * spread for n, w in network.weights().items()
    }
    path = folder / f"{name}.hypernetwork.safetensors"
    path.write_bytes(pack(tensors, network.structure, "Normal", family, {}))
    return path


def lora(folder, model):
    """A LoRA on the very layers that a hypernetwork stands before."""
    family, generator = model.backbone.key, torch.Generator().manual_seed(5)
    state = {}
    for name, layer in model.site("context_kv").items():
        state[f"{model.denoiser_name}.{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=generator)
        state[f"{model.denoiser_name}.{name}.lora_B.weight"] = (
            torch.randn(layer.out_features, 2, generator=generator) * 0.1
        )
    folder = folder / "lora"
    folder.mkdir()
    return write_lora(folder, state, rank=2, scale=1.0, about=About("cat", family=family))[0]


def seen(model):
    from tuner.formats.prediction import predict

    return predict(model)


def merged(model, lora_file):
    """The model with the LoRA's update added to its own weights."""
    twin = copy.copy(model)
    twin.denoiser = copy.deepcopy(model.denoiser)
    pipe = twin.pipeline()
    tuner.load_adapter(pipe, lora_file)
    pipe.fuse_lora(components=[model.denoiser_name])
    pipe.unload_lora_weights()
    return twin


def test_before_a_lora_in_either_order(model, tmp_path):
    """A LoRA changes the projection, so it too must see what the hypernetwork puts out."""
    first, second = hypernetwork(tmp_path, model.backbone.key), lora(tmp_path, model)
    want_model = merged(model, second)
    tuner.load_adapter(want_model.pipeline(), first, strength=0.5)
    want, alone = seen(want_model), seen(model)
    one, other = copy.copy(model), copy.copy(model)
    one.denoiser, other.denoiser = copy.deepcopy(model.denoiser), copy.deepcopy(model.denoiser)
    tuner.load_adapter(one.pipeline(), first, strength=0.5)
    tuner.load_adapter(one.pipeline(), second)
    tuner.load_adapter(other.pipeline(), second)
    tuner.load_adapter(other.pipeline(), first, strength=0.5)
    assert (want - alone).abs().max() > 1e-3
    for found in (one, other):
        assert torch.allclose(seen(found), want, atol=2e-5, rtol=1e-4)


def test_plain_diffusers_may_put_a_lora_on_and_take_it_off(model, tmp_path):
    first, second = hypernetwork(tmp_path, model.backbone.key), lora(tmp_path, model)
    plain = seen(model)
    pipe = model.pipeline()
    tuner.load_adapter(pipe, first)
    alone = seen(model)
    pipe.load_lora_weights(str(second.parent), weight_name=second.name, adapter_name="cat")
    both = seen(model)
    assert (both - alone).abs().max() > 1e-4
    pipe.disable_lora()
    assert torch.equal(seen(model), alone)
    pipe.enable_lora()
    assert torch.equal(seen(model), both)
    pipe.fuse_lora(components=[model.denoiser_name])
    assert torch.allclose(seen(model), both, atol=1e-5, rtol=1e-4)
    pipe.unfuse_lora(components=[model.denoiser_name])
    pipe.unload_lora_weights()
    assert torch.allclose(seen(model), alone, atol=1e-5)
    tuner.unload_adapter(pipe, "dog")
    assert torch.allclose(seen(model), plain, atol=1e-5)


def test_the_seat_follows_the_projection_between_two_calls(model, tmp_path):
    """Bitwise: off again, everything is as it was, hooks and names among it."""
    names = [name for name, _ in model.denoiser.named_modules()]
    hooks = sum(len(m._forward_pre_hooks) for m in model.denoiser.modules())
    plain, pipe = seen(model), model.pipeline()
    tuner.load_adapter(pipe, hypernetwork(tmp_path, model.backbone.key))
    tuner.load_adapter(pipe, lora(tmp_path, model), name="cat")
    seen(model)
    tuner.unload_adapter(pipe, "cat")
    tuner.unload_adapter(pipe, "dog")
    assert torch.equal(seen(model), plain)
    assert [name for name, _ in model.denoiser.named_modules()] == names
    assert sum(len(m._forward_pre_hooks) for m in model.denoiser.modules()) == hooks


def test_several_act_one_behind_the_other(model, tmp_path):
    files = [hypernetwork(tmp_path, model.backbone.key, f"n{seed}", seed) for seed in (1, 2)]
    pipe = model.pipeline()
    for file, strength in zip(files, (1.0, -0.5), strict=True):
        tuner.load_adapter(pipe, file, strength=strength)
    chain = model.denoiser.hypernetworks
    x = torch.randn(1, 3, KEYS[model.backbone.key][2], generator=torch.Generator().manual_seed(1))
    first, second = chain.members.values()
    assert (first.strength, second.strength) == (1.0, -0.5)
    assert torch.equal(chain.rewrite(x, "k"), second(first(x, "k"), "k"))
    both = seen(model)
    tuner.unload_adapter(pipe, "n1")
    one = seen(model)
    assert (both - one).abs().max() > 1e-4
    tuner.unload_adapter(pipe, "n2")
    assert (one - seen(model)).abs().max() > 1e-4


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_strength_zero_is_nothing(model, tmp_path, strength):
    plain = seen(model)
    tuner.load_adapter(model.pipeline(), hypernetwork(tmp_path, model.backbone.key), strength=strength)
    assert torch.equal(seen(model), plain) == (strength == 0.0)


def test_sd35_rewrites_the_text_s_keys_and_values_alone(sd35_model, tmp_path):
    """Of a joint block, by its own matrices: the picture's stream and the text's queries see what they saw."""
    pipe = sd35_model.pipeline()
    tuner.load_adapter(pipe, hypernetwork(tmp_path, "sd35"), strength=0.5)
    layer = sd35_model.denoiser.transformer_blocks[0].attn
    network = sd35_model.denoiser.hypernetworks.members["dog"]
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(1, 4, 24, generator=generator), torch.randn(1, 3, 24, generator=generator)
    taken = {}
    names = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
    for name in names:
        getattr(layer, name).register_forward_hook(lambda _m, args, _o, name=name: taken.__setitem__(name, args[0]))
    with torch.no_grad():
        layer(hidden_states=image, encoder_hidden_states=text)
        weights = {n: w.detach() for n, w in network.weights().items()}
        for side, name in (("k", "add_k_proj"), ("v", "add_v_proj")):
            hidden = torch.tanh(text @ weights[f"24.{side}.linear.0.weight"].T + weights[f"24.{side}.linear.0.bias"])
            net = hidden @ weights[f"24.{side}.linear.2.weight"].T + weights[f"24.{side}.linear.2.bias"]
            assert torch.allclose(taken[name], text + 0.5 * net, atol=1e-6)
            assert not torch.allclose(taken[name], text, atol=1e-3)
    assert all(torch.equal(taken[name], image) for name in ("to_q", "to_k", "to_v"))
    assert torch.equal(taken["add_q_proj"], text)


def test_half_precision_pipelines_compute_it_in_float32(sd15_model, tmp_path):
    file = hypernetwork(tmp_path, "sd15", spread=0.05)
    pipe = sd15_model.pipeline()
    tuner.load_adapter(pipe, file)
    want = seen(sd15_model)
    tuner.unload_adapter(pipe, "dog")
    sd15_model.denoiser.to(torch.bfloat16)
    tuner.load_adapter(pipe, file)
    assert {p.dtype for p in sd15_model.denoiser.hypernetworks.parameters()} == {torch.float32}
    with torch.no_grad():
        cond = sd15_model.read(["a", "b"], torch.device("cpu"))
        x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
        out = sd15_model.denoiser(x, torch.tensor([5, 5]), cond.to(torch.device("cpu"), torch.bfloat16)["text"]).sample
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(want).all()


WRONG = {
    "another width": ("sd15", 768, DataError, "768 values; this unet has those of 48, 96"),
    "another family": ("sd35", 96, DataError, "is for the transformer, which this pipeline does not have"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_refused(kind, sd15_model, tmp_path):
    family, width, error, said = WRONG[kind]
    with pytest.raises(error, match=said):
        tuner.load_adapter(sd15_model.pipeline(), hypernetwork(tmp_path, family, width=width))
    assert not hasattr(sd15_model.denoiser, "hypernetworks")


def test_a_name_is_taken_once(sd15_model, tmp_path):
    pipe = sd15_model.pipeline()
    file = hypernetwork(tmp_path, "sd15")
    tuner.load_adapter(pipe, file)
    with pytest.raises(UsageError, match="named 'dog'"):
        tuner.load_adapter(pipe, file)
    tuner.load_adapter(pipe, file, name="again")
    with pytest.raises(UsageError, match="no adapter named 'cat'"):
        tuner.unload_adapter(pipe, "cat")


def test_fused_projections_are_refused_rather_than_passed_over(sd15_model, tmp_path):
    tuner.load_adapter(sd15_model.pipeline(), hypernetwork(tmp_path, "sd15"))
    sd15_model.denoiser.fuse_qkv_projections()
    with pytest.raises(RuntimeError, match="fused"):
        seen(sd15_model)


def test_inspect_tells_what_it_is(tmp_path):
    facts = inspect_file(hypernetwork(tmp_path, "sd15"))
    assert (facts["kind"], facts["format"], facts["backbone"], facts["problem"]) == (
        "hypernetwork",
        "tuner",
        "sd15",
        None,
    )
    assert facts["hypernetwork"]["sizes"] == [96]
    assert facts["hypernetwork"]["activation_func"] == "tanh"
    assert set(facts["loads_in"]) == {"diffusers", "AUTOMATIC1111", "ComfyUI"}
    assert set(inspect_file(hypernetwork(tmp_path, "sd35", "b"))["loads_in"]) == {"diffusers"}


class Trained:
    """A hypernetwork on a model, its every weight moved, and the files of it."""

    def __init__(self, folder, model, dtype="fp32", **options):
        self.model = model
        self.attachment = Adapter.read({"name": "hypernetwork", "init": "normal", **options}).attach(
            model, keep_base=False, draws=Draws(0)
        )
        generator = torch.Generator().manual_seed(1)
        self.state = {
            n: t + torch.randn(t.shape, generator=generator) * 0.05 for n, t in self.attachment.state_dict().items()
        }
        folder.mkdir(exist_ok=True)
        self.files = self.attachment.export(folder, self.state, About("dog", dtype=dtype, family=model.backbone.key))


FULL = {"activation": "relu", "layer_norm": True, "dropout": 0.3}


@pytest.mark.parametrize(
    ("dtype", "options"), [("fp32", FULL), ("fp16", {}), ("bf16", FULL)], ids=["fp32", "fp16", "bf16"]
)
def test_what_is_written_verifies(model, tmp_path, dtype, options):
    trained = Trained(tmp_path / "a", model, dtype, **options)
    trained.attachment.train(on=True)
    before, plain = {n: t.clone() for n, t in trained.attachment.state_dict().items()}, torch.get_rng_state()
    verify_hypernetwork(trained.attachment, trained.files, trained.state)
    assert all(torch.equal(t, before[n]) for n, t in trained.attachment.state_dict().items())
    assert torch.equal(torch.get_rng_state(), plain)
    assert trained.attachment.network.training
    assert list(model.denoiser.hypernetworks.members) == ["tuner"]


def change(file, how):
    from safetensors.torch import load_file

    header, tensors = read_header(file), load_file(file)
    metadata = how(tensors, dict(header.metadata)) or header.metadata
    from tuner.formats import container

    file.write_bytes(container.pack(tensors, metadata))


DAMAGE = {
    "a bit": (lambda t, _m: t["hypernetwork.96.k.linear.0.weight"].view(-1)[3:4].add_(1e-6) and None, "differs"),
    "sides swapped": (
        lambda t, _m: t.update({k: t[k.replace(".v.", ".k.")].clone() for k in t if ".v." in k}), "differs",
    ),
    "a width less": (
        lambda t, _m: [t.pop(k) for k in list(t) if k.startswith("hypernetwork.48.")] and None, "one of the two alone",
    ),
    "another activation": (
        lambda _t, m: m | {"hypernetwork": m["hypernetwork"].replace('"relu"', '"tanh"')}, "other networks",
    ),
    "no family": (lambda _t, m: {k: v for k, v in m.items() if k != "tuner_backbone"}, "which family"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_that_is_not_what_was_trained_is_caught(kind, sd15_model, tmp_path):
    trained = Trained(tmp_path / "a", sd15_model, activation="relu")
    how, said = DAMAGE[kind]
    change(trained.files[0], how)
    with pytest.raises(StorageError, match=said) as caught:
        verify_hypernetwork(trained.attachment, trained.files, trained.state)
    assert str(trained.files[0]) in caught.value.message


def test_a_loader_that_does_nothing_is_caught(sd15_model, tmp_path, monkeypatch):
    from tuner.formats import verify_hypernetwork as module

    trained = Trained(tmp_path / "a", sd15_model)
    monkeypatch.setattr(module, "load_hypernetwork", lambda *_: None)
    with pytest.raises(StorageError, match="prediction differs"):
        verify_hypernetwork(trained.attachment, trained.files, trained.state)


def test_training_beside_a_lora_trains_both(model):
    """Attached in either order, each learns, and each is switched off alone."""
    for names in (("hypernetwork", "lora"), ("lora", "hypernetwork")):
        twin = copy.copy(model)
        twin.denoiser = copy.deepcopy(model.denoiser)
        base = seen(twin)
        made = [
            Adapter.read({"name": n, **({"init": "normal"} if n == "hypernetwork" else {})}).attach(
                twin, keep_base=True, draws=Draws(0)
            )
            for n in names
        ]
        with torch.no_grad():
            for attachment in made:
                for name, p in attachment.state_dict().items():
                    if "lora_B" in name:
                        p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
        both = seen(twin)
        with made[0].disabled(), made[1].disabled():
            assert torch.equal(seen(twin), base)
        for attachment in made:
            with attachment.disabled():
                assert (seen(twin) - both).abs().max() > 1e-5
        cond = twin.read(["a dog"], torch.device("cpu"))
        x = torch.randn(1, twin.channels, 16, 16, generator=torch.Generator().manual_seed(0))
        twin.denoise(x, torch.tensor([500.0]), cond).square().mean().backward()
        grads = [p.grad for a in made for g in a.param_groups() for p in g.params.values()]
        moved = sum(g is not None and bool(g.any()) for g in grads)
        assert moved > 0.9 * len(grads)
