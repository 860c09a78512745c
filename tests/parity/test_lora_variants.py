"""Convolutions, DoRA, rsLoRA and ranks by part: each file acts as trained, in the real loader or by its delta alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sd35 import load_sd35
from trained_lora import TrainedLoRA

import tuner
from tuner import toybox
from tuner.adapters.lora import LoRA
from tuner.backbones.sd15 import SD15
from tuner.draws import Draws
from tuner.errors import DataError, RecipeError, StorageError
from tuner.formats.about import About
from tuner.formats.container import read_header
from tuner.formats.convert import convert
from tuner.formats.find import find_file, kind_of
from tuner.formats.inspect import inspect_file
from tuner.formats.load import load_adapter, set_strength
from tuner.formats.loaders import quiet_loaders
from tuner.formats.lora import DIFFUSERS_FILE
from tuner.load_notes import notes

if TYPE_CHECKING:
    from pathlib import Path

PART = "down_blocks.1"
CASES = {
    "convolutions": {"rank": 4, "conv_rank": 2, "conv_alpha": 1},
    "rslora": {"rank": 4, "alpha": 2, "rslora": True, "text_encoder_lr": 1e-4},
    "ranks": {
        "rank": 4,
        "alpha": 3,
        "ranks": [{"layers": PART, "rank": 2}, {"layers": "attn2", "rank": 6, "alpha": 2}],
    },
    "dora": {"rank": 2, "dora": "output", "text_encoder_lr": 1e-4},
    "dora of convolutions": {"rank": 2, "dora": "output", "conv_rank": 3},
    "dora of inputs": {"rank": 2, "dora": "input", "conv_rank": 3, "conv_alpha": 2, "text_encoder_lr": 1e-4},
}
JOINT = {
    "ranks": {"rank": 4, "alpha": 3, "ranks": [{"layers": "attn2", "rank": 2}], "text_encoder_lr": 1e-4},
    "dora": {"rank": 2, "dora": "output", "text_encoder_lr": 1e-4},
    "dora of inputs": {"rank": 2, "dora": "input"},
}
NAME = "dog"


def slow_case(name: str):
    return pytest.param(name, marks=pytest.mark.slow)


SLOW = ("convolutions", "rslora", "dora of convolutions")
"""Each of their parts is in another case."""
WAYS = [slow_case(name) if name in SLOW else name for name in CASES]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By case, what was trained on the toybox."""
    made: dict[str, TrainedLoRA] = {}

    def case(name: str) -> TrainedLoRA:
        if name not in made:
            model = SD15(model="toybox").load(device=torch.device("cpu"), dtype=torch.float32)
            about = About(NAME, base="toybox", prompt="a photo of sks dog")
            folder = tmp_path_factory.mktemp("run") / "adapter"
            made[name] = TrainedLoRA(model, folder, about, size=0.05, **CASES[name])
        return made[name]

    return case


@pytest.fixture(scope="module")
def joint(tmp_path_factory, sd35_folder):
    """The same on the tiny SD3.5-shaped model."""
    made: dict[str, TrainedLoRA] = {}

    def case(name: str) -> TrainedLoRA:
        if name not in made:
            about = About(NAME, family="sd35", base="base", prompt="a photo of a dog")
            folder = tmp_path_factory.mktemp("run") / "adapter"
            made[name] = TrainedLoRA(load_sd35(sd35_folder), folder, about, size=0.2, **JOINT[name])
        return made[name]

    return case


def pipeline(trained: TrainedLoRA):
    """A pipeline over a fresh base."""
    fresh = trained.model.backbone.load(device=torch.device("cpu"), dtype=torch.float32)
    return fresh, fresh.pipeline()


def predict(model, prompt: str) -> torch.Tensor:
    from trained_lora import inputs

    with torch.no_grad():
        return model.denoise(*inputs(model.channels), model.encode_text(model.tokenize(["", prompt]))).float()


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


def tensors(trained: TrainedLoRA) -> list[Path]:
    return [file for file in trained.files if file.suffix == ".safetensors"]


def act_as_trained(trained: TrainedLoRA) -> None:
    """Every file, by `load_adapter`, by diffusers alone where `inspect` says so, and by its deltas."""
    want, prompt = trained.predict(), trained.about.prompt
    for file in tensors(trained):
        model, pipe = pipeline(trained)
        base = predict(model, prompt)
        assert not close(base, want)
        load_adapter(pipe, file, name="x")
        assert close(predict(model, prompt), want), file.name
        assert set_strength(pipe, file, "x", 0.0)
        assert torch.equal(predict(model, prompt), base), "at strength 0 it is the base"
        tuner.unload_adapter(pipe, "x")
        assert torch.equal(predict(model, prompt), base)
        told = inspect_file(file)["loads_in"]["diffusers"]
        with quiet_loaders():
            pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="x")
        try:
            loaded = close(predict(model, prompt), want)
        except RuntimeError as error:  # norms that it waits for are not there
            loaded = "meta" not in str(error)
        assert loaded == told.startswith("all of it"), told
        tuner.unload_adapter(pipe, "x")
        add_deltas(model, file, 1.0)
        assert close(predict(model, prompt), want), f"{file.name} by its deltas"


def add_deltas(model, file: Path, strength: float) -> None:
    header = read_header(file)
    for delta in kind_of(header).deltas(file, header):
        module, layer = model.components[delta.component], delta.layer
        if delta.component != model.denoiser_name and not hasattr(module, "text_model"):
            layer = layer.removeprefix("text_model.")
        weight = module.get_submodule(layer).weight
        weight.data += strength * delta.added(weight.data)


@pytest.mark.parametrize("case", WAYS)
def test_each_file_acts_as_trained(trained, case):
    act_as_trained(trained(case))
    trained(case).attachment.verify(trained(case).files, trained(case).state)


@pytest.mark.parametrize("case", [slow_case("ranks"), "dora", "dora of inputs"])
def test_each_file_acts_as_trained_on_sd35(joint, case):
    act_as_trained(joint(case))
    joint(case).attachment.verify(joint(case).files, joint(case).state)


def test_a_dora_of_inputs_has_no_file_for_diffusers_own_loader(trained):
    names = [file.name for file in trained("dora of inputs").files]
    assert DIFFUSERS_FILE not in names
    assert find_file(trained("dora of inputs").folder).name == f"{NAME}.safetensors"
    card = (trained("dora of inputs").folder / "README.md").read_text()
    assert "tuner.load_adapter(pipe" in card
    assert "pipe.load_lora_weights(" not in card


def test_half_a_strength_is_half_of_the_change_of_a_dora(trained):
    for case in ("dora", "dora of inputs"):
        model, pipe = pipeline(trained(case))
        load_adapter(pipe, tensors(trained(case))[0], strength=0.5, name="x")
        other, _ = pipeline(trained(case))
        add_deltas(other, tensors(trained(case))[0], 0.5)
        prompt = trained(case).about.prompt
        assert close(predict(model, prompt), predict(other, prompt))


@pytest.mark.parametrize("order", [("dora", "ranks"), ("ranks", "dora"), ("dora of inputs", "dora")])
def test_adapters_beside_each_other_each_change_the_base(trained, order):
    model, pipe = pipeline(trained("dora"))
    other, _ = pipeline(trained("dora"))
    kept = {name: p.data.clone() for name, p in other.denoiser.named_parameters()}
    changes: dict[str, torch.Tensor] = {}
    for case in order:
        file = tensors(trained(case))[0]
        load_adapter(pipe, file, strength=0.7, name=case.replace(" ", "_"))
        header = read_header(file)
        for delta in kind_of(header).deltas(file, header):
            if delta.component == "unet":
                name = f"{delta.layer}.weight"
                changes[name] = changes.get(name, 0) + 0.7 * delta.added(kept[name])
    for name, change in changes.items():
        other.denoiser.get_parameter(name).data += change
    with torch.no_grad():
        cond = other.encode_text(other.tokenize(["", "a dog"]))
        from trained_lora import inputs

        found, want = (m.denoise(*inputs(m.channels), cond) for m in (model, other))
    assert close(found, want)


@pytest.mark.parametrize("case", ["dora", "dora of inputs"])
@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.bfloat16, id="bf16"), pytest.param(torch.float16, id="fp16", marks=pytest.mark.slow)]
)
def test_a_dora_acts_in_a_pipeline_in_half_precision(trained, case, dtype):
    own = trained(case)
    half = own.model.backbone.load(device=torch.device("cpu"), dtype=dtype)
    pipe = half.pipeline()
    base = predict(half, own.about.prompt)
    load_adapter(pipe, own.folder, name="x")
    found, want = predict(half, own.about.prompt), own.predict()
    effect = float((want - base).abs().max())
    assert float((found - want).abs().max()) < 0.2 * effect


@pytest.mark.parametrize("case", ["dora", "dora of inputs"])
@pytest.mark.parametrize("dtype", ["fp16", slow_case("bf16")])
def test_half_files_of_a_dora_hold_half_norms_and_verify(trained, case, dtype, tmp_path):
    own = trained(case)
    about = About(NAME, dtype=dtype, base="toybox", prompt=own.about.prompt)
    files = own.attachment.export(tmp_path, own.state, about)
    own.attachment.verify(files, own.state)
    held = {t.dtype for key, t in load_file(files[0]).items() if key.endswith((".dora_scale", "vector.weight"))}
    assert held == {{"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]}


def test_the_time_projections_that_kohya_trains_beside_convolutions_load_everywhere(tmp_path):
    model = SD15(model="toybox").load(device=torch.device("cpu"), dtype=torch.float32)
    about = About(NAME, base="toybox", prompt="a dog")
    own = TrainedLoRA(model, tmp_path / "r", about, size=0.05, rank=2, where=["to_q", "time_emb_proj"], dora="output")
    own.attachment.verify(own.files, own.state)
    backbone = model.backbone
    assert LoRA(where=["time_emb_proj"], dora="input").kept_beside(backbone, backbone.layout(), 2)


def test_the_delta_of_a_dora_is_the_formula(trained):
    """m * (W + s B A) / its norms, less W (Liu et al. 2024, eq. 5), of a convolution and along either axis."""
    for case, dims in (("dora of convolutions", (1, 2, 3)), ("dora of inputs", (0, 2, 3))):
        layer = "down_blocks.0.resnets.0.conv1"
        own = trained(case)
        down, up, norms = (
            own.state[f"unet.{layer}.{side}.weight"] for side in ("lora_A", "lora_B", "lora_magnitude_vector")
        )
        weight = own.model.denoiser.get_submodule(layer).base_layer.weight.data
        scale = own.attachment.sizes["unet", layer].scale
        whole = weight + scale * torch.einsum("orxy,rikl->oikl", up, down)
        shape = (-1, 1, 1, 1) if case != "dora of inputs" else (1, -1, 1, 1)
        want = norms.view(shape) * whole / whole.square().sum(dims, keepdim=True).sqrt() - weight
        for file in tensors(own):
            header = read_header(file)
            found = {d.layer: d for d in kind_of(header).deltas(file, header)}[layer]
            assert torch.allclose(found.added(weight), want, atol=1e-5)
            with pytest.raises(ValueError, match="does not fit"):
                found.added(weight[:-1])


def test_norms_stand_in_files_as_their_readers_look_for_them(trained, joint):
    kohya = load_file(trained("dora of inputs").folder / f"{NAME}.safetensors")
    conv = kohya["lora_unet_down_blocks_0_resnets_0_conv1.dora_scale"]
    assert conv.shape[0] == conv.shape[2] == conv.shape[3] == 1
    assert conv.shape[1] == kohya["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape[1]
    linear = kohya["lora_te_text_model_encoder_layers_0_self_attn_q_proj.dora_scale"]
    assert linear.shape == (1, kohya["lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"].shape[1])
    plain = load_file(trained("dora").folder / DIFFUSERS_FILE)
    assert all(key.endswith(".lora_magnitude_vector.weight") for key in plain if "magnitude" in key)
    comfy = load_file(joint("dora").folder / f"{NAME}.safetensors")
    key = "transformer.transformer_blocks.0.attn.to_q"
    assert comfy[f"{key}.dora_scale"].shape == (comfy[f"{key}.lora_B.weight"].shape[0], 1)
    told = read_header(trained("dora").folder / f"{NAME}.safetensors").metadata
    assert told["ss_network_module"] == "lycoris.kohya"
    assert '"dora_wd": "True"' in told["ss_network_args"]


def test_peft_s_own_spelling_of_norms_is_read_whole(trained, tmp_path):
    """diffusers passes over those of a text encoder, and says nothing where transformers is told to be quiet."""
    own = trained("dora")
    bare = {key.replace("vector.weight", "vector"): t for key, t in load_file(own.folder / DIFFUSERS_FILE).items()}
    save_file(bare, tmp_path / "x.safetensors")
    model, pipe = pipeline(own)
    load_adapter(pipe, tmp_path / "x.safetensors")
    assert close(predict(model, own.about.prompt), own.predict())
    assert inspect_file(tmp_path / "x.safetensors")["loads_in"]["diffusers"].startswith("NOT the norms")


def test_a_layer_without_norms_beside_others_with_some_stays_a_plain_lora(trained, tmp_path):
    own = trained("dora")
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    whole = load_file(own.folder / DIFFUSERS_FILE)
    save_file(
        {key: t for key, t in whole.items() if key != f"{layer}.lora_magnitude_vector.weight"},
        tmp_path / "x.safetensors",
    )
    model, pipe = pipeline(own)
    load_adapter(pipe, tmp_path / "x.safetensors")
    other, _ = pipeline(own)
    add_deltas(other, tmp_path / "x.safetensors", 1.0)
    assert close(predict(model, own.about.prompt), predict(other, own.about.prompt))
    assert not close(predict(model, own.about.prompt), own.predict())


def test_a_foreign_file_with_several_alphas_loads_with_each_of_them(trained, tmp_path):
    """diffusers gives a UNet's attention the commonest alpha; `inspect` says so, and `load_adapter` does not."""
    own = trained("rslora")
    foreign = load_file(own.folder / f"{NAME}.safetensors")
    for number, key in enumerate(sorted(key for key in foreign if key.endswith(".alpha"))):
        ratio = float(1 + number % 3)
        foreign[key] = foreign[key] * ratio
        up = key.replace(".alpha", ".lora_up.weight")
        foreign[up] = foreign[up] / ratio
    save_file(foreign, tmp_path / "x.safetensors")
    model, pipe = pipeline(own)
    with quiet_loaders():
        pipe.load_lora_weights(str(tmp_path), weight_name="x.safetensors", adapter_name="x")
    assert not close(predict(model, own.about.prompt), own.predict()), "then `same_alphas` is needed no longer"
    tuner.unload_adapter(pipe, "x")
    assert inspect_file(tmp_path / "x.safetensors")["loads_in"]["diffusers"].startswith("NOT its scales")
    load_adapter(pipe, tmp_path / "x.safetensors")
    assert close(predict(model, own.about.prompt), own.predict())


@pytest.mark.parametrize("case", WAYS)
def test_a_conversion_there_and_back_is_the_same_update(trained, case, tmp_path):
    source = trained(case).folder / f"{NAME}.safetensors"
    there = convert(source, "diffusers", tmp_path / "d.safetensors").file
    back = convert(there, "kohya", tmp_path / "k.safetensors").file
    header = read_header(back)
    again = {(d.component, d.layer): d for d in kind_of(header).deltas(back, header)}
    header = read_header(source)
    for delta in kind_of(header).deltas(source, header):
        assert delta.differs(again[delta.component, delta.layer], 1e-6) is None  # type: ignore[attr-defined]


def test_what_kohya_s_fused_layers_cannot_hold_is_refused(joint, tmp_path):
    made = convert(joint("dora").folder / DIFFUSERS_FILE, "kohya", tmp_path / "k.safetensors")
    header = read_header(made.file)
    assert len(kind_of(header).deltas(made.file, header)) == sum(made.layers.values())
    with pytest.raises(DataError, match="which stacks 3 layers"):
        convert(joint("dora of inputs").folder / f"{NAME}.safetensors", "kohya", tmp_path / "i.safetensors")


@pytest.mark.parametrize("case", WAYS)
def test_a_run_begins_as_each_of_the_files(trained, case):
    own = trained(case)
    for file in tensors(own):
        model = own.model.backbone.load(device=torch.device("cpu"), dtype=torch.float32)
        lora = LoRA(**CASES[case], init_from=str(file))
        assert not lora.initial_problems(model.backbone)
        began = lora.attach(model, keep_base=True, draws=Draws(0)).state_dict()
        assert began.keys() == own.state.keys()
        for name, tensor in began.items():
            assert torch.allclose(tensor, own.state[name], rtol=1e-6, atol=0), name


@pytest.mark.parametrize(
    ("case", "change", "reason"),
    [
        ("dora", {"dora": None}, "a DoRA with a norm of each output; set adapters.lora.dora: output"),
        ("dora", {"dora": "input"}, "a DoRA with a norm of each output"),
        ("rslora", {"dora": "input"}, "is a plain LoRA, without the norms"),
        ("ranks", {"ranks": [{"layers": PART, "rank": 1}]}, "has rank 2, 6 where this run has 1, 4: "),
        ("rslora", {"rslora": False}, "it would move the update"),
        ("convolutions", {"conv_rank": None, "conv_alpha": None}, "trains convolutions, which this run does not"),
    ],
)
def test_another_kind_of_start_is_refused_with_the_reason(trained, case, change, reason):
    own = trained(case)
    lora = LoRA(**{**CASES[case], **change}, init_from=str(own.folder))
    model = own.model.backbone.load(device=torch.device("cpu"), dtype=torch.float32)
    told = "\n".join(lora.initial_problems(model.backbone))
    with pytest.raises(RecipeError) as caught:
        lora.attach(model, keep_base=False, draws=Draws(0))
    assert reason in str(caught.value)
    assert told == "" or reason in told


def test_lost_norms_are_seen_when_files_are_verified(trained, tmp_path):
    own = trained("dora")
    for change in (lambda t: t * 1.01, lambda t: None):
        kept = {}
        for key, tensor in load_file(own.folder / DIFFUSERS_FILE).items():
            value = change(tensor) if "magnitude" in key else tensor
            kept |= {} if value is None else {key: value}
        save_file(kept, tmp_path / "x.safetensors")
        with pytest.raises(StorageError, match="norms of"):
            own.attachment.verify([tmp_path / "x.safetensors"], own.state)


def test_dropout_acts_on_a_dora_in_training_alone():
    for dora in ("output", "input"):
        model = SD15(model="toybox").load(device=torch.device("cpu"), dtype=torch.float32)
        attachment = LoRA(rank=2, dora=dora, dropout=0.5).attach(model, keep_base=False, draws=Draws(0))
        for name, tensor in attachment.state_dict().items():
            if not name.endswith("lora_A.weight"):
                tensor.add_(0.1)
        attachment.train(on=False)
        still = predict(model, "a dog")
        assert torch.equal(still, predict(model, "a dog"))
        attachment.train(on=True)
        torch.manual_seed(0)
        assert not torch.equal(still, predict(model, "a dog"))
        attachment.train(on=False)
        assert torch.equal(still, predict(model, "a dog"))


def test_a_fused_dora_of_inputs_is_the_same(trained):
    logging.getLogger("peft").setLevel(logging.ERROR)
    own = trained("dora of inputs")
    model, pipe = pipeline(own)
    base = predict(model, own.about.prompt)
    load_adapter(pipe, own.folder, strength=0.5, name="x")
    want = predict(model, own.about.prompt)
    pipe.fuse_lora(adapter_names=["x"])
    assert close(predict(model, own.about.prompt), want)
    pipe.unfuse_lora()
    tuner.unload_adapter(pipe, "x")
    assert close(predict(model, own.about.prompt), base)


def test_the_toybox_has_every_kind_of_convolution():
    """Else the names of some would be tested by nothing."""
    names = LoRA(conv_rank=2).layers(SD15(model="toybox"), SD15(model="toybox").layout())
    for part in ("conv1", "conv2", "conv_shortcut", "downsamplers", "upsamplers", "proj_in", "proj_out"):
        assert any(part in name for name in names), part
    assert toybox.folder("sd15").is_dir()


def read_as(tool: str, weight: torch.Tensor, file: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    """The weight that a tool makes of a layer, by the arithmetic of its source.

    ComfyUI a125cd84 comfy/weight_adapter/base.py and Forge dfdcbab6 backend/patcher/lora.py tell the axis by the norms'
    first side, and divide those of outputs by the base's; A1111 (in Forge's packages_3rdparty/webui_lora_collection)
    and InvokeAI 8e71a8a5 backend/patches/layers/dora_layer.py know inputs alone; LyCORIS f49d30d6 modules/locon.py is
    told the axis.
    """
    down, up, norms = (file[f"{key}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "dora_scale"))
    update = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) * float(file[f"{key}.alpha"]) / down.shape[0]
    outputs, changed = norms.shape[0] == weight.shape[0] and tool not in ("AUTOMATIC1111", "InvokeAI"), weight + update
    of = weight if outputs and tool in ("ComfyUI", "Forge") else changed
    sides = [side for side in range(weight.ndim) if side != (0 if outputs else 1)]
    return changed * (norms / of.square().sum(sides, keepdim=True).sqrt())


@pytest.mark.parametrize("tool", ["AUTOMATIC1111", "Forge", "ComfyUI", "InvokeAI", "LyCORIS"])
@pytest.mark.parametrize("case", ["dora of inputs", "dora of convolutions"])
def test_other_tools_make_of_it_what_inspect_says(trained, tool, case):
    own = trained(case)
    path = own.folder / f"{NAME}.safetensors"
    said = inspect_file(path)["loads_in"].get(tool, "all of it")
    file, header = load_file(path), read_header(path)
    largest = 0.0
    for delta in kind_of(header).deltas(path, header):
        if delta.component == "unet":
            weight = own.model.denoiser.get_submodule(delta.layer).base_layer.weight.data
            added = delta.added(weight)
            found = read_as(tool, weight, file, f"lora_unet_{delta.layer.replace('.', '_')}") - weight
            if said.startswith("NOT quite"):  # by as much as training changed the norms
                rows = (
                    weight + delta.scale * (delta.up.flatten(1) @ delta.down.flatten(1)).view(weight.shape)
                ).flatten(1)
                grown = rows.norm(dim=1) / weight.flatten(1).norm(dim=1)
                assert torch.allclose(
                    (found + weight).flatten(1), (added + weight).flatten(1) * grown[:, None], atol=1e-4
                )
            largest = max(largest, float((found - added).norm() / added.norm()))
    if said.startswith("all of it"):
        assert largest < 1e-4
    elif said.startswith("NOT quite"):
        assert largest > 1e-4
    else:
        assert said.startswith("WRONG")
        assert largest > 0.5


def test_the_notes_in_a_package_name_what_a_tool_does_not_read(trained):
    told = notes(trained("dora").folder, "dog")
    assert "  AUTOMATIC1111: dog.safetensors\n    WRONG" in told
    assert f"  diffusers: {DIFFUSERS_FILE}" in told
    told = notes(trained("dora of inputs").folder, "dog")
    assert "  diffusers: dog.safetensors\n    through tuner.load_adapter" in told
    assert "WRONG" not in told
