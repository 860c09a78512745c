"""LoHa and LoKr files, ours and other tools': loaded as they compute, told of, proven, or refused with the reason."""

from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import load_sd15
from safetensors.torch import load_file, save_file
from tiny_sd35 import load_sd35
from trained_lora import TrainedLoRA
from trained_lycoris import TrainedLycoris, apart, product, read_by, reader_keys

from tuner import load_notes
from tuner.adapters import Adapter
from tuner.draws import Draws
from tuner.errors import DataError, NumbersError, RecipeError, StorageError, UsageError
from tuner.formats.about import About
from tuner.formats.container import Entry, Header, pack, read_header
from tuner.formats.find import kind_of
from tuner.formats.inspect import inspect_file
from tuner.formats.load import load_adapter, put_in, set_strength
from tuner.formats.lycoris import recognise
from tuner.formats.lycoris_delta import read_products
from tuner.formats.lycoris_kind import LycorisKind, loads_in
from tuner.formats.prediction import predict
from tuner.formats.unload import unload_adapter
from tuner.planning.load import remade_of
from tuner.planning.memory import updates
from tuner.recipe import Recipe

ABOUT = About("dog", base="toybox", prompt="a dog", facts={"step": 3, "lr": 1e-4})
QUERY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"


@pytest.fixture(scope="module")
def sd15():
    return load_sd15("toybox")


@pytest.fixture(scope="module")
def sd35(sd35_folder):
    return load_sd35(sd35_folder)


@pytest.fixture(scope="module")
def trained(sd15, tmp_path_factory):
    made: dict[str, TrainedLycoris] = {}

    def case(name: str) -> TrainedLycoris:
        if name not in made:
            made[name] = TrainedLycoris(sd15, tmp_path_factory.mktemp(name), ABOUT, name=name, rank=2)
        return made[name]

    return case


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: 0.3 * torch.from_numpy(Draws(2).normal(shape, name)).float() for name, shape in shapes.items()}


def loha(rows: int, columns: int, rank: int = 2) -> dict[str, tuple[int, ...]]:
    outer, inner = (rows, rank), (rank, columns)
    return {"hada_w1_a": outer, "hada_w1_b": inner, "hada_w2_a": outer, "hada_w2_b": inner}


def tucker_loha(rows: int, columns: int, rank: int = 2) -> dict[str, tuple[int, ...]]:
    middle = (rank, rank, 3, 3)
    sides = {f"hada_w{n}_{side}": (rank, width) for n in "12" for side, width in (("a", rows), ("b", columns))}
    return {**sides, "hada_t1": middle, "hada_t2": middle}


# ---- other tools' files: convolutions, and layers that are one in the original code


def convolution(model) -> tuple[str, str, int, int]:
    """Its name and key, rows and columns."""
    name = "down_blocks.1.resnets.0.conv1"
    rows, columns, *_ = model.denoiser.get_submodule(name).weight.shape
    return name, f"lora_unet_{name.replace('.', '_')}", rows, columns


CONVOLUTIONS = {
    "loha, flat": lambda rows, columns: loha(rows, 9 * columns),
    "loha, tucker": tucker_loha,
    "lokr, flat": lambda rows, columns: {
        "lokr_w1": (4, 2), "lokr_w2_a": (rows // 4, 2), "lokr_w2_b": (2, 9 * columns // 2)
    },
    "lokr, whole": lambda rows, columns: {"lokr_w1": (4, 2), "lokr_w2": (rows // 4, columns // 2, 3, 3)},
    "lokr, tucker": lambda rows, columns: {
        "lokr_w1_a": (4, 1), "lokr_w1_b": (1, 2), "lokr_w2_a": (2, rows // 4), "lokr_w2_b": (2, columns // 2),
        "lokr_t2": (2, 2, 3, 3),
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_of_another_tool_acts_as_its_readers_say(sd15, tmp_path, case):
    name, key, rows, columns = convolution(sd15)
    tensors = {f"{key}.{leaf}": value for leaf, value in drawn(CONVOLUTIONS[case](rows, columns)).items()}
    if case != "lokr, whole":
        tensors[f"{key}.alpha"] = torch.tensor(0.5)
    save_file(tensors, tmp_path / "x.safetensors")
    ours, theirs = apart(sd15), apart(sd15)
    assert not read_by("AUTOMATIC1111", tensors, theirs, reader_keys(theirs))
    load_adapter(ours.pipeline(), tmp_path / "x.safetensors")
    want, base = predict(theirs), predict(sd15)
    assert (want - base).abs().max() > 1e-3
    assert (predict(ours) - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))
    assert inspect_file(tmp_path / "x.safetensors")["targets"] == {"unet": 1}


def fused(shapes: dict[str, tuple[int, ...]], key: str) -> dict[str, torch.Tensor]:
    return {f"lora_unet_{key}.{leaf}": value for leaf, value in drawn(shapes).items()}


@pytest.mark.parametrize("case", ["loha", "lokr"])
def test_a_layer_that_is_three_in_diffusers_comes_apart(sd35, tmp_path, case):
    width = sd35.denoiser.transformer_blocks[0].attn.to_q.weight.shape[1]
    lokr = {"lokr_w1": (9, 4), "lokr_w2_a": (width // 3, 2), "lokr_w2_b": (2, width // 4)}
    tensors = fused(loha(3 * width, width) if case == "loha" else lokr, "joint_blocks_0_x_block_attn_qkv")
    save_file(tensors, tmp_path / "x.safetensors")
    model = apart(sd35)
    load_adapter(model.pipeline(), tmp_path / "x.safetensors", name="x")
    own = {name.split(".")[1]: value.double().numpy() for name, value in tensors.items()}
    whole = torch.from_numpy(product(own)).float()
    for layer, part in zip(("to_q", "to_k", "to_v"), whole.chunk(3), strict=True):
        found = model.denoiser.transformer_blocks[0].attn.get_submodule(layer).get_delta_weight("x")
        assert torch.allclose(found, part, atol=1e-5)


def test_the_halves_of_the_last_norm_are_turned(sd35, tmp_path):
    width = sd35.denoiser.norm_out.linear.weight.shape[1]
    tensors = fused(loha(2 * width, width), "final_layer_adaLN_modulation_1")
    save_file(tensors, tmp_path / "x.safetensors")
    (update,) = read_products(tmp_path / "x.safetensors", recognise(tmp_path, read_header(tmp_path / "x.safetensors")))
    own = {name.split(".")[1]: value.double().numpy() for name, value in tensors.items()}
    first, second = np.split(product(own), 2)
    want = torch.from_numpy(np.concatenate([second, first])).float()
    assert update.layer == "norm_out.linear"
    assert torch.allclose(update.added(sd35.denoiser.norm_out.linear.weight), want, atol=1e-5)


# ---- refusals: nothing is loaded, and the file and the reason are named

FOUR = torch.ones(4, 4)
WIDE = {f"{QUERY.replace('to_q', 'to_k')}.{leaf}": torch.ones(shape) for leaf, shape in loha(8, 2048).items()}
ONE = {f"{QUERY}.{leaf}": torch.ones(shape) for leaf, shape in loha(4, 4).items()}
REFUSALS = {
    "half": ({f"{QUERY}.hada_w1_a": FOUR}, "make no LoHa"),
    "one matrix": ({f"{QUERY}.lokr_w1": FOUR}, "make no LoKr"),
    "both ways": ({f"{QUERY}.lokr_{leaf}": FOUR for leaf in ("w1", "w1_a", "w1_b", "w2")}, "make no LoKr"),
    "misfits": ({**ONE, f"{QUERY}.hada_w2_b": torch.ones(4, 5)}, "do not fit together"),
    "empty": ({f"{QUERY}.{leaf}": torch.ones(shape) for leaf, shape in loha(4, 4, 0).items()}, "do not fit together"),
    "dora": ({**ONE, f"{QUERY}.dora_scale": FOUR}, "decomposes the weight"),
    "lora beside": ({**ONE, "lora_unet_mid_block_x.lora_up.weight": FOUR}, "LoRA layers, too"),
    "lokr beside": ({**ONE, "lora_unet_mid_block_x.lokr_w1": FOUR}, "LoKr layers, too"),
    "strange": ({**ONE, f"{QUERY}.hada_w3": FOUR}, "none of LyCORIS'"),
    "whole numbers": ({**ONE, f"{QUERY}.hada_w1_a": FOUR.int()}, "holds I32 numbers"),
    "alpha of many": ({**ONE, f"{QUERY}.alpha": FOUR}, "not one number"),
    "sdxl by its width": (WIDE, "SDXL"),
    "sdxl by its encoder": ({**ONE, **{k.replace(QUERY, "lora_te2_x"): v for k, v in ONE.items()}}, "SDXL"),
    "flux": ({k.replace(QUERY, "lycoris_single_transformer_blocks_0_attn_to_q"): v for k, v in ONE.items()}, "FLUX"),
    "twice": ({**ONE, **{k.replace("lora_unet", "lycoris"): v for k, v in ONE.items()}}, "one layer twice"),
    "unknown": ({k.replace(QUERY, "lora_unet_x"): v for k, v in ONE.items()}, "no base known here"),
    "no such layer": ({k.replace("_0_attn2", "_7_attn2"): v for k, v in ONE.items()}, "no layer"),
    "another size": (ONE, "maps 4 to 4"),
    "not finite": ({**ONE, f"{QUERY}.hada_w1_a": torch.ones(4, 2) / 0}, "not finite"),
    "t5": ({k.replace(QUERY, "lora_te3_encoder_x"): v for k, v in ONE.items()}, "T5"),
    "for sd35": (
        {k.replace(QUERY, "lycoris_transformer_blocks_0_attn_to_q"): v for k, v in ONE.items()},
        "does not have",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_loaded_whole_is_refused(sd15, tmp_path, case):
    tensors, reason = REFUSALS[case]
    file = tmp_path / "x.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        load_adapter(sd15.pipeline(), file)
    assert str(file) in caught.value.message
    assert not [
        module for part in sd15.components.values() for module in part.modules() if hasattr(module, "base_layer")
    ]


KEYS = (QUERY, "lycoris_transformer_blocks_0_attn_to_q", "lora_unet_joint_blocks_0_x_block_attn_qkv", "lora_te_x", "x")
LEAVES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "lokr_w1", "lokr_w2", "lokr_w2_b", "lokr_t2")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=2),
    st.lists(st.sampled_from((*LEAVES, "alpha", "lokr_w2_a", "")), min_size=1, max_size=8, unique=True),
    st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=8, max_size=8),
)
def test_no_header_is_more_than_refused(keys, leaves, shapes):
    """Whatever names and shapes it holds, a file is described or refused by name."""
    tensors = {}
    for key in keys:
        for leaf, shape in zip(leaves, shapes, strict=False):
            tensors[f"{key}.{leaf}"] = Entry("F32", tuple(shape), 0, 4 * math.prod(shape))
    header = Header({}, tensors, 0)
    for method in ("loha", "lokr"):
        if LycorisKind(method).claims(header):
            try:
                found = recognise(Path("x.safetensors"), header)
            except DataError as error:
                assert "x.safetensors" in error.message
            else:
                assert loads_in(found)["ComfyUI"]
                assert all(own.size[0] > 0 for layers in found.components.values() for own in layers.values())


def test_a_kronecker_product_that_does_not_come_apart_is_refused(tmp_path):
    tensors = fused({"lokr_w1": (8, 4), "lokr_w2": (9, 6)}, "joint_blocks_0_x_block_attn_qkv")
    save_file(tensors, tmp_path / "x.safetensors")
    assert "does not come apart" in inspect_file(tmp_path / "x.safetensors")["problem"]


def test_a_taken_name_is_refused_and_a_failed_load_leaves_what_was_there(sd15, trained, tmp_path):
    model = apart(sd15)
    pipe = model.pipeline()
    load_adapter(pipe, trained("loha").file, name="one")
    before = predict(model)
    with pytest.raises(UsageError, match="named 'one'"):
        load_adapter(pipe, trained("lokr").file, name="one")
    save_file(ONE, tmp_path / "x.safetensors")
    with pytest.raises(DataError):
        load_adapter(pipe, tmp_path / "x.safetensors", name="two")
    assert torch.equal(predict(model), before)


# ---- beside other adapters


def test_several_kinds_add_up_in_any_order_and_come_off_again(sd15, trained, tmp_path):
    lora = TrainedLoRA(apart(sd15), tmp_path / "lora", ABOUT, size=0.1, rank=2).files[1]
    files = {"a": trained("loha").file, "b": lora, "c": trained("lokr").file}
    base = predict(sd15)
    said = []
    for order in ("abc", "cba", "bac"):
        model = apart(sd15)
        pipe = model.pipeline()
        for name in order:
            load_adapter(pipe, files[name], name=name)
        said.append(predict(model))
        unload_adapter(pipe, order[1])
        unload_adapter(pipe, order[0])
        alone = apart(sd15)
        load_adapter(alone.pipeline(), files[order[2]])
        assert (predict(model) - predict(alone)).abs().max() <= 1e-5
        unload_adapter(pipe, order[2])
        assert torch.equal(predict(model), base)
    assert all((one - said[0]).abs().max() <= 1e-5 for one in said)
    assert (said[0] - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_strength_scales_the_update_and_can_change(sd15, trained, name):
    file, model = trained(name).file, apart(sd15)
    pipe = model.pipeline()
    take_off = put_in(pipe, file, strength=0.0, name="x")
    base = predict(sd15)
    assert torch.equal(predict(model), base)
    assert set_strength(pipe, file, "x", 0.5)
    half = apart(sd15)
    keys = reader_keys(half)
    tensors = load_file(file)
    one = "hada_w1_a" if name == "loha" else "lokr_w1"
    read_by("AUTOMATIC1111", {k: v / 2 if k.endswith(f".{one}") else v for k, v in tensors.items()}, half, keys)
    assert (predict(model) - predict(half)).abs().max() <= 1e-5
    assert set_strength(pipe, file, "x", 1.0)
    assert (predict(model) - trained(name).predict()).abs().max() <= 1e-5
    take_off()
    assert torch.equal(predict(model), base)


# ---- what the files say, and the proof


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_inspect_card_header_and_notes_tell_what_it_is(trained, name):
    made = trained(name)
    told = inspect_file(made.file)
    assert (told["kind"], told["format"], told["backbone"], told["rank"], told["alpha"]) == (
        name,
        "lycoris",
        "sd15",
        2,
        2,
    )
    assert told["targets"] == {"unet": 56}
    assert told["parameters"] == sum(tensor.numel() for tensor in made.state.values())
    assert "tuner.load_adapter" in told["loads_in"]["diffusers"]
    assert told["loads_in"]["ComfyUI"] == "all of it"
    header = read_header(made.file).metadata
    assert header["ss_network_module"] == "lycoris.kohya"
    assert json.loads(header["ss_network_args"])["algo"] == name
    card = (made.file.parent / "README.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    assert "tuner.load_adapter(pipe, 'dog.safetensors'" in ast.unparse(ast.parse(code))
    assert json.loads((made.file.parent / "dog.json").read_text("utf-8"))["sd version"] == "SD1"
    notes = load_notes.notes(made.file.parent, "dog")
    assert "models/Lora" in notes
    assert kind_of(read_header(made.file)).label in notes


def test_invoke_is_named_only_where_it_finds_the_base(sd15, trained, tmp_path):
    assert trained("loha") and inspect_file(trained("loha").file)["loads_in"]["InvokeAI"] == "all of it"
    low = inspect_file(trained("lokr").file)["loads_in"]["InvokeAI"]
    assert low.startswith("not recognised")
    assert low in (trained("lokr").file.parent / "README.md").read_text("utf-8")
    whole = TrainedLycoris(sd15, tmp_path, ABOUT, name="lokr", rank=64)
    assert inspect_file(whole.file)["loads_in"]["InvokeAI"] == "all of it"
    assert inspect_file(whole.file)["rank"] is None


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_files_of_half_precision_are_proven_too(sd15, tmp_path, name, dtype):
    made = TrainedLycoris(sd15, tmp_path, About("dog", dtype=dtype, base="toybox"), name=name, rank=2)
    made.attachment.verify(made.files, made.state)
    assert inspect_file(made.file)["dtype"] == dtype


@pytest.mark.parametrize("metadata", ["minimal", "none"])
def test_a_file_may_say_less(sd15, tmp_path, metadata):
    made = TrainedLycoris(sd15, tmp_path, About("dog", base="toybox", metadata=metadata), name="lokr", rank=2)
    assert "tuner_recipe" not in read_header(made.file).metadata
    assert inspect_file(made.file)["targets"] == {"unet": 56}


FAULTS = {
    "a value": lambda tensors, key: {**tensors, f"{key}.lokr_w1": tensors[f"{key}.lokr_w1"] + 1e-3},
    "alpha": lambda tensors, key: {**tensors, f"{key}.alpha": torch.tensor(3.0)},
    "a lost layer": lambda tensors, key: {name: t for name, t in tensors.items() if not name.startswith(f"{key}.")},
    "a lost alpha": lambda tensors, key: {name: t for name, t in tensors.items() if name != f"{key}.alpha"},
    "one more": lambda tensors, key: {**tensors, f"{key}_more.lokr_w1": FOUR},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_what_was_trained_is_no_file(trained, tmp_path, fault):
    made = trained("lokr")
    tensors, key = load_file(made.file), QUERY
    file = tmp_path / "dog.safetensors"
    file.write_bytes(pack(tensors, {}))
    made.attachment.verify([file], made.state)
    file.write_bytes(pack(FAULTS[fault](tensors, key), {}))
    with pytest.raises(StorageError, match="load_adapter"):
        made.attachment.verify([file], made.state)


def test_values_that_a_file_cannot_hold_are_refused(trained, tmp_path):
    made = trained("loha")
    name = next(iter(made.state))
    for dtype, value, reason in (("fp32", float("nan"), "not finite"), ("fp16", 1e6, "do not fit")):
        state = {**made.state, name: torch.full_like(made.state[name], value)}
        with pytest.raises(NumbersError, match=reason):
            made.attachment.export(tmp_path, state, About("dog", dtype=dtype, base="toybox"))


def test_equal_runs_give_equal_bytes(sd15, trained, tmp_path):
    again = TrainedLycoris(sd15, tmp_path, ABOUT, name="loha", rank=2)
    assert again.file.read_bytes() == trained("loha").file.read_bytes()


# ---- in a run


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_rows_are_left_out_in_training_alone_and_by_the_step_s_seed(sd15, name):
    model = apart(sd15)
    attachment = Adapter.read({"name": name, "rank": 2, "rank_dropout": 0.5}).attach(
        model, keep_base=True, draws=Draws(0)
    )
    for parameter, tensor in attachment.state_dict().items():
        tensor.add_(0.2 * torch.from_numpy(Draws(1).normal(tuple(tensor.shape), parameter)))
    whole = predict(model)
    attachment.train(on=True)

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return predict(model)

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    assert not torch.equal(seeded(1), whole)
    with attachment.disabled():
        assert torch.equal(predict(model), predict(sd15))
    with attachment.at_start():
        assert torch.equal(predict(model), predict(sd15))
    attachment.train(on=False)
    assert torch.equal(predict(model), whole)


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_gradients_of_a_half_precision_step_are_float32_and_near(sd15, name):
    grads = []
    for half in (False, True):
        model = apart(sd15)
        attachment = Adapter.read({"name": name, "rank": 2}).attach(model, keep_base=False, draws=Draws(0))
        for parameter, tensor in attachment.state_dict().items():
            tensor.add_(0.2 * torch.from_numpy(Draws(1).normal(tuple(tensor.shape), parameter)))
        cond = model.encode_text(model.tokenize(["a dog"]))
        x = torch.from_numpy(Draws(4).normal((1, 4, 8, 8), "x"))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model.denoise(x, torch.tensor([500.0]), cond).float().square().mean()
        loss.backward()
        grads.append([p.grad for group in attachment.param_groups() for p in group.params.values()])
    full, half = (torch.cat([grad.flatten() for grad in own]) for own in grads)
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(full, half, dim=0) > 0.99


def recipe(adapters: object, family: str = "sd15") -> Recipe:
    return Recipe.model_validate(
        {
            "backbone": {"name": family, "model": "toybox"},
            "adapters": adapters,
            "task": "finetune",
            "data": {"images": {"path": "photos", "caption": "a dog"}},
            "train": {"steps": 4},
        }
    )


def test_a_run_trains_one_of_them():
    with pytest.raises(ValueError, match="one of loha and lora"):
        recipe([{"name": "lora"}, {"name": "loha"}])
    with pytest.raises(ValueError, match="one of"):
        recipe(["loha", "lokr"])
    assert (
        len(recipe([{"name": "textual_inversion", "token": "<new>", "init": "dog", "until": 0.5}, "lokr"]).adapters)
        == 2
    )


@pytest.mark.parametrize(
    ("keys", "reason"),
    [({"rank": 999, "alpha": 4}, "alpha: has no effect"), ({"decompose_both": True}, "decompose_both: has no effect")],
)
def test_what_does_nothing_is_refused_but_in_a_rehearsal(sd15, keys, reason):
    adapter = Adapter.read({"name": "lokr", **keys})
    real = sd15.backbone.model_copy(update={"model": "somebody/model"})
    (problem,) = adapter.layer_problems(real, real.layout())
    assert problem.startswith(f"adapters.lokr.{reason}")
    assert not adapter.layer_problems(sd15.backbone, sd15.backbone.layout())
    assert not Adapter.read({"name": "lokr", "rank": 4, "alpha": 2, "decompose_both": True}).layer_problems(
        real, real.layout()
    )


def test_convolutions_are_for_a_base_that_has_some():
    with pytest.raises(ValueError, match="conv_alpha"):
        Adapter.read({"name": "loha", "conv_alpha": 2})
    with pytest.raises(ValueError, match="its transformer convolves nothing"):
        recipe([{"name": "loha", "conv_rank": 2}], family="sd35")
    assert recipe([{"name": "loha", "conv_rank": 2}])


def test_a_pattern_that_matches_nothing_is_refused(sd15):
    with pytest.raises(RecipeError, match="'to_x' matches no linear layer"):
        Adapter.read({"name": "loha", "where": ["to_x"]}).attach(sd15, keep_base=False, draws=Draws(0))


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_the_plan_knows_what_a_step_keeps_of_whole_updates(sd15, name):
    """Each layer's update is computed at the size of its weight, and kept for the gradient."""
    adapter = Adapter.read({"name": name, "rank": 2})
    model = apart(sd15)
    own = {id(p) for module in model.components.values() for p in module.parameters()}
    adapter.attach(model, keep_base=False, draws=Draws(0))
    shapes = {tuple(layer.weight.shape) for layer in sd15.site("attention").values()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        flat = tuple(tensor.shape) in shapes or tuple(tensor.t().shape if tensor.ndim == 2 else ()) in shapes
        if flat and id(base) not in own:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    x, t = torch.zeros(1, 4, 8, 8), torch.tensor([500.0])
    cond = model.encode_text(model.tokenize(["a dog"]))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model.denoise(x, t, cond)
    assert out.requires_grad
    planned = adapter.remade(sd15.backbone, sd15.backbone.layout())
    # what nothing before it asks a gradient of: the text, and the first block's input
    free = ("attn2.to_k", "attn2.to_v"), "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    needed = {name: size for name, size in planned.items() if not name.endswith(free[0])}
    first = [size for name, size in needed.items() if name.startswith(free[1]) and "to_out" not in name]
    assert sum(kept.values()) == sum(needed.values()) - sum(first)


@pytest.mark.parametrize("family", ["sd15", "sd35"])
def test_the_plan_counts_whole_updates_of_one_block_where_they_are_made_anew(family):
    made = recipe(["loha"], family)
    remade = remade_of(made, made.backbone.layout())
    sizes = {}
    for checkpointing in (False, True):
        load = SimpleNamespace(remade=remade, checkpointing=checkpointing)
        (sizes[checkpointing],) = updates(load, 2).values()  # type: ignore[arg-type]
    assert sizes[False] == 2 * sum(remade.values())
    assert 0 < sizes[True] < sizes[False]
    assert not updates(SimpleNamespace(remade={}, checkpointing=False), 2)  # type: ignore[arg-type]
