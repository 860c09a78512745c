"""A saved SD3.5 LoRA is, in plain diffusers, the adapter that was trained; so is one that went through kohya's keys."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import trained_lora
from original_sd3 import layers as original_layers
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file, save_file
from tiny_sd35 import TRANSFORMER, load_sd35
from trained_lora import TrainedLoRA

from tuner.adapters.lora import ADAPTER, LoRA
from tuner.draws import Draws
from tuner.errors import DataError, StorageError, UsageError
from tuner.formats.about import About
from tuner.formats.container import pack, read_header
from tuner.formats.convert import convert
from tuner.formats.inspect import inspect_file
from tuner.formats.load import load_adapter
from tuner.formats.loaders import quiet_loaders
from tuner.formats.lora import DIFFUSERS_FILE, write_lora
from tuner.formats.verify import verify_lora

NAME = "dog"
FILES = (DIFFUSERS_FILE, f"{NAME}.safetensors")
PROMPT = "a photo of a dog"
CASES = {
    "transformer": {"rank": 4},
    "alpha below rank, with text": {"rank": 8, "alpha": 3, "text_encoder_lr": 1e-4},
    "every linear layer": {"rank": 3, "alpha": 5, "where": "all_linear"},
    "some of q, k and v": {"rank": 2, "where": "context_kv"},
}
TOLERANCE = 2e-5
"""Of a prediction of size 1 to 3, after float32 factors were multiplied in another order."""


class Trained(TrainedLoRA):
    """The tiny model with a LoRA that says something, and its files."""

    def __init__(self, base: Path, folder: Path, *, dtype="fp32", **lora):
        about = About(NAME, dtype=dtype, family="sd35", base=str(base), prompt=PROMPT, prediction="velocity")
        super().__init__(load_sd35(base, t5_length=20), folder, about, size=0.1, **lora)

    def deltas(self) -> dict[str, torch.Tensor]:
        """Each layer's change of its weight, by component and name as files have it."""
        found = {}
        for name, down in self.state.items():
            if name.endswith(".lora_A.weight"):
                up = self.state[name.replace("lora_A", "lora_B")]
                found[name.removesuffix(".lora_A.weight")] = self.lora.scale * up @ down
        return found


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return trained_lora.inputs(channels=16)


def plain(folder: Path):
    from diffusers import StableDiffusion3Pipeline

    with quiet_loaders():
        pipe = StableDiffusion3Pipeline.from_pretrained(str(folder), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def predict(pipe) -> torch.Tensor:
    """By the pipeline's own reading of the prompts."""
    with torch.no_grad():
        words = {f"prompt{n}": ["", PROMPT] for n in ("", "_2", "_3")}
        text, _, pooled, _ = pipe.encode_prompt(**words, do_classifier_free_guidance=False, max_sequence_length=20)
        x, timestep = inputs()
        return pipe.transformer(x, text, pooled, timestep, return_dict=False)[0]


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def loaded(pipe) -> dict[str, int]:
    """How many layers of each component hold an adapter."""
    parts = {name: getattr(pipe, name) for name in ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")}
    return {
        name: count
        for name, module in parts.items()
        if (count := sum(isinstance(part, LoraLayer) for part in module.modules()))
    }


@pytest.fixture(scope="module")
def base(sd35_folder) -> torch.Tensor:
    return predict(plain(sd35_folder))


@pytest.fixture(scope="module")
def cases(sd35_folder, tmp_path_factory):
    made: dict[str, Trained] = {}

    def case(name: str) -> Trained:
        if name not in made:
            made[name] = Trained(sd35_folder, tmp_path_factory.mktemp("run") / "adapter", **CASES[name])
        return made[name]

    return case


# ---- plain diffusers


@pytest.mark.parametrize("case", CASES)
def test_the_pipeline_loads_each_file_as_trained(cases, sd35_folder, base, caplog, case):
    """No key is passed over: every layer that trained is there, and the loaders have nothing to complain about."""
    trained = cases(case)
    want = trained.predict()
    assert gap(want, base) > 1e-2
    for file in FILES:
        pipe = plain(sd35_folder)
        caplog.clear()
        pipe.load_lora_weights(str(trained.folder), weight_name=file)
        assert gap(predict(pipe), want) <= TOLERANCE
        assert loaded(pipe) == {component: len(names) for component, (_, names) in trained.attachment.targets.items()}
        absent = [r.message for r in caplog.records if "No LoRA keys associated" not in r.message]
        assert not absent


def test_both_files_are_equal_and_hold_only_what_trained(cases):
    trained = cases("alpha below rank, with text")
    first, second = ((trained.folder / file).read_bytes() for file in FILES)
    assert first == second
    keys = load_file(trained.folder / DIFFUSERS_FILE).keys()
    assert len(keys) == len(trained.state)
    known = r"transformer\.transformer_blocks\..*|text_encoder(_2)?\.text_model\.encoder\.layers\..*"
    assert all(re.fullmatch(rf"({known})\.lora_[AB]\.weight", key) for key in keys)


def test_alpha_lies_within_the_factors(cases, sd35_folder, tmp_path):
    """A reader that knows no header and no alpha, as ComfyUI, multiplies the factors and nothing else."""
    trained = cases("alpha below rank, with text")
    tensors = load_file(trained.folder / DIFFUSERS_FILE)
    for name, delta in trained.deltas().items():
        assert gap(tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"], delta) < 1e-6
    save_file(tensors, tmp_path / "bare.safetensors")
    pipe = plain(sd35_folder)
    pipe.load_lora_weights(str(tmp_path), weight_name="bare.safetensors")
    assert gap(predict(pipe), trained.predict()) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_files_verify(sd35_folder, tmp_path, dtype):
    trained = Trained(sd35_folder, tmp_path, dtype=dtype, rank=4, alpha=3, text_encoder_lr=1e-4)
    verify_lora(trained.attachment, trained.files, trained.state)


def test_verifying_finds_a_wrong_file(cases, tmp_path):
    trained = cases("alpha below rank, with text")
    verify_lora(trained.attachment, trained.files, trained.state)
    tensors, metadata = load_file(trained.files[0]), read_header(trained.files[0]).metadata
    key = "text_encoder_2.text_model.encoder.layers.1.self_attn.q_proj.lora_B.weight"
    wrong = {
        "scaled": tensors | {key: tensors[key] * 1.01},
        "less": {name: tensor for name, tensor in tensors.items() if not name.startswith("text_encoder_2.")},
    }
    for name, changed in wrong.items():
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(pack(changed, metadata))
        with pytest.raises(StorageError, match="text_encoder_2"):
            verify_lora(trained.attachment, [file], trained.state)


# ---- load_adapter and inspect


@pytest.mark.parametrize("case", CASES)
def test_load_adapter_takes_ours_and_kohyas(cases, sd35_folder, tmp_path, case):
    trained = cases(case)
    kohya = convert(trained.folder, "kohya", tmp_path / "k.safetensors").file
    for path in (trained.folder, trained.folder.parent, kohya):
        pipe = plain(sd35_folder)
        load_adapter(pipe, path)
        assert gap(predict(pipe), trained.predict()) <= TOLERANCE
        assert loaded(pipe) == {component: len(names) for component, (_, names) in trained.attachment.targets.items()}


def test_strength_scales_both_layouts(cases, sd35_folder, tmp_path):
    trained = cases("alpha below rank, with text")
    kohya = convert(trained.folder, "kohya", tmp_path / "k.safetensors").file
    modules = [module for module, _ in trained.attachment.targets.values()]
    layers = [part for module in modules for part in module.modules() if isinstance(part, LoraLayer)]
    for layer in layers:
        layer.set_scale(ADAPTER, 0.4)
    want = trained.predict()
    for layer in layers:
        layer.set_scale(ADAPTER, 1.0)
    for path in (trained.folder, kohya):
        pipe = plain(sd35_folder)
        load_adapter(pipe, path, 0.4)
        assert gap(predict(pipe), want) <= TOLERANCE


def test_inspect_tells_all_of_the_one_file_there_is(cases, tmp_path):
    trained = cases("alpha below rank, with text")
    told = inspect_file(trained.folder)
    assert (told["format"], told["backbone"], told["problem"]) == ("diffusers", "sd35", None)
    assert (told["rank"], told["alpha"], told["resolution"]) == (8, 8, 512)
    assert told["targets"] == {"transformer": 31, "text_encoder": 12, "text_encoder_2": 12}
    assert told["loads_in"]["diffusers"].startswith("all of it")
    convert(trained.folder, "kohya", tmp_path / "k.safetensors")
    told = inspect_file(tmp_path / "k.safetensors")
    assert (told["format"], told["backbone"], told["problem"]) == ("kohya", "sd35", None)
    assert told["base"] == trained.about.base
    assert told["loads_in"]["diffusers"].startswith("NOTHING")


@pytest.mark.parametrize("alpha", [None, 4, 3])
def test_files_of_diffusers_own_script_load(cases, sd35_folder, tmp_path, alpha):
    """Its text encoders' keys are older than peft's; alpha stands in the header, or nowhere."""
    from diffusers import StableDiffusion3Pipeline
    from diffusers.utils import convert_state_dict_to_diffusers

    trained = cases("alpha below rank, with text")
    parts: dict = {"transformer": {}, "text_encoder": {}, "text_encoder_2": {}}
    for name, tensor in trained.state.items():
        component, _, key = name.partition(".")
        parts[component][key] = tensor
    for component in ("text_encoder", "text_encoder_2"):
        parts[component] = convert_state_dict_to_diffusers(parts[component])
    configs = {
        component: {"r": 8, "lora_alpha": alpha, "target_modules": list(names)}
        for component, (_, names) in trained.attachment.targets.items()
    }
    StableDiffusion3Pipeline.save_lora_weights(
        tmp_path,
        **{f"{component}_lora_layers": own for component, own in parts.items()},
        **{f"{component}_lora_adapter_metadata": own for component, own in configs.items() if alpha},
    )
    assert any("lora_linear_layer" in key for key in load_file(tmp_path / DIFFUSERS_FILE))
    want = plain(sd35_folder)
    want.load_lora_weights(str(tmp_path))
    found = plain(sd35_folder)
    load_adapter(found, tmp_path)
    assert gap(predict(found), predict(want)) == 0
    through = convert(tmp_path, "kohya", tmp_path / "k.safetensors").file
    again = plain(sd35_folder)
    load_adapter(again, through)
    assert gap(predict(again), predict(want)) <= TOLERANCE
    if alpha == 3:
        assert gap(predict(found), trained.predict()) <= TOLERANCE


# ---- kohya's keys


def test_plain_diffusers_passes_over_kohyas_keys(cases, sd35_folder, base, tmp_path):
    """What `tuner export` warns about; where this fails, diffusers has learned to read them."""
    convert(cases("transformer").folder, "kohya", tmp_path / "k.safetensors")
    pipe = plain(sd35_folder)
    with quiet_loaders():
        pipe.load_lora_weights(str(tmp_path), weight_name="k.safetensors")
    assert loaded(pipe) == {}
    assert gap(predict(pipe), base) == 0


@pytest.mark.parametrize("case", CASES)
def test_kohyas_file_changes_the_original_layers_as_the_trained_ones_are_changed(cases, tmp_path, case):
    """The file is applied to zeros in the original layout, as ComfyUI and sd-scripts apply it (`lora_unet_` + name, dots
    as `_`; alpha / rank * up @ down), and diffusers' own converter brings the sum to diffusers' layers."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    trained = cases(case)
    file = convert(trained.folder, "kohya", tmp_path / "k.safetensors").file
    tensors, used = load_file(file), set()
    width = TRANSFORMER["num_attention_heads"] * TRANSFORMER["attention_head_dim"]
    checkpoint = {"pos_embed": torch.zeros(1, 4, width), "x_embedder.proj.weight": torch.zeros(width, 16, 2, 2)}
    checkpoint["x_embedder.proj.bias"] = torch.zeros(width)
    for name, shape in original_layers(TRANSFORMER):
        key = f"lora_unet_{name.replace('.', '_')}"
        delta = torch.zeros(shape)
        if f"{key}.lora_up.weight" in tensors:
            down, up, alpha = (tensors[f"{key}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
            delta = float(alpha) / down.shape[0] * up @ down
            used |= {f"{key}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")}
        checkpoint |= {f"{name}.weight": delta, f"{name}.bias": torch.zeros(shape[0])}
    converted = convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    want = trained.deltas()
    for name, delta in converted.items():
        place = f"transformer.{name.removesuffix('.weight')}"
        assert gap(delta, want.get(place, torch.zeros_like(delta))) <= 1e-6, name
    assert {f"transformer.{name.removesuffix('.weight')}" for name in converted} >= {
        place for place in want if place.startswith("transformer.")
    }
    text = {key for key in tensors if key.startswith(("lora_te1_", "lora_te2_"))}
    assert tensors.keys() == used | text
    assert len(text) == 3 * sum(not place.startswith("transformer.") for place in want)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_the_same_in_effect(cases, tmp_path, case):
    """Every layer's change of its weight, to 1e-6 of its size; the layers are the same, and so is what plain diffusers
    does with the file."""
    trained = cases(case)
    there = convert(trained.folder, "kohya", tmp_path / "k.safetensors")
    back = convert(there.file, "diffusers", tmp_path / "d.safetensors")
    assert there.layers == back.layers
    assert (there.widened, back.widened) == (0, 0)
    tensors, want = load_file(back.file), trained.deltas()
    assert {key.rsplit(".lora_", 1)[0] for key in tensors} == want.keys()
    for name, delta in want.items():
        down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        assert down.shape[0] == trained.lora.rank
        assert gap(up @ down, delta) <= 1e-6 * max(1.0, float(delta.abs().max()))
    verify_lora(trained.attachment, [back.file], trained.state)
    config = json.loads(read_header(back.file).metadata["lora_adapter_metadata"])
    assert config["transformer.r"] == config["transformer.lora_alpha"] == trained.lora.rank


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_files_stay_half_and_exact(sd35_folder, tmp_path, dtype):
    """Our files have no scale beside the factors, so nothing is rounded anew."""
    trained = Trained(sd35_folder, tmp_path / "adapter", dtype=dtype, rank=4, alpha=3)
    there = convert(trained.folder, "kohya", tmp_path / "k.safetensors").file
    back = convert(there, "diffusers", tmp_path / "d.safetensors")
    first, last = load_file(trained.folder / DIFFUSERS_FILE), load_file(back.file)
    assert first.keys() == last.keys()
    assert all(torch.equal(first[key], last[key]) and first[key].dtype == last[key].dtype for key in first)
    assert back.widened == 0


def test_a_scale_that_half_precision_would_round_widens_the_factors(sd35_folder, tmp_path):
    trained = Trained(sd35_folder, tmp_path / "adapter", dtype="fp16", rank=4)
    there = convert(trained.folder, "kohya", tmp_path / "k.safetensors").file
    tensors = load_file(there)
    for key in tensors:
        if key.endswith(".alpha"):
            tensors[key] = tensors[key] / 3
    foreign = tmp_path / "foreign.safetensors"
    save_file(tensors, foreign)
    back = convert(foreign, "diffusers", tmp_path / "d.safetensors")
    assert back.widened > 0
    found = load_file(back.file)
    key = "transformer.transformer_blocks.0.attn.to_k"
    half = load_file(trained.folder / DIFFUSERS_FILE)
    want = half[f"{key}.lora_B.weight"].float() @ half[f"{key}.lora_A.weight"].float() / 3
    assert gap(found[f"{key}.lora_B.weight"].float() @ found[f"{key}.lora_A.weight"].float(), want) < 1e-6


def test_a_file_of_sd_scripts_with_one_down_for_all_three_loads(cases, sd35_folder, tmp_path):
    """Its own way of training a fused layer, with its own alpha; text encoders under te1 and te2."""
    pipe = plain(sd35_folder)
    up, down = (torch.from_numpy(Draws(5).normal(shape, "x")) for shape in ((72, 4), (4, 24)))
    stem = "lora_unet_joint_blocks_2_context_block_attn_qkv"
    save_file(
        {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)},
        tmp_path / "x.safetensors",
    )
    load_adapter(pipe, tmp_path / "x.safetensors", name="x")
    for part, name in enumerate(("add_q_proj", "add_k_proj", "add_v_proj")):
        layer = pipe.transformer.transformer_blocks[2].attn.get_submodule(name)
        found = layer.get_delta_weight("x")
        assert gap(found, 0.25 * up[24 * part : 24 * part + 24] @ down) < 1e-6


def test_sd15_goes_there_and_back_too(tmp_path):
    from tuner.backbones.sd15 import SD15

    model = SD15(model="toybox").load(device=torch.device("cpu"), dtype=torch.float32)
    lora = LoRA(rank=4, alpha=3, text_encoder_lr=1e-4)
    attachment = lora.attach(model, keep_base=False, draws=Draws(7))
    state = attachment.state_dict()
    for name, tensor in state.items():
        tensor.copy_(0.1 * torch.from_numpy(Draws(1).normal(tuple(tensor.shape), name)))
    write_lora(tmp_path, state, rank=4, scale=lora.scale, about=About(NAME, base="toybox"))
    there = convert(tmp_path / DIFFUSERS_FILE, "kohya", tmp_path / "k.safetensors").file
    assert load_file(there).keys() == load_file(tmp_path / FILES[1]).keys()
    back = convert(tmp_path / FILES[1], "diffusers", tmp_path / "d.safetensors").file
    assert load_file(back).keys() == load_file(tmp_path / DIFFUSERS_FILE).keys()
    verify_lora(attachment, [there, back], state)


# ---- faults


def test_what_cannot_be_converted_is_refused_with_the_reason(cases, tmp_path):
    trained = cases("transformer")
    with pytest.raises(UsageError, match="has the keys of diffusers already"):
        convert(trained.folder, "diffusers", tmp_path / "x.safetensors")
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already"):
        convert(trained.folder, "kohya", tmp_path / "there.safetensors")
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"
    tensors = load_file(trained.folder / DIFFUSERS_FILE)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] * float("nan")}, tmp_path / "nan.safetensors")
    with pytest.raises(DataError, match="not finite"):
        convert(tmp_path / "nan.safetensors", "kohya", tmp_path / "x.safetensors")
    whole = (trained.folder / DIFFUSERS_FILE).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    with pytest.raises(DataError, match="cut.safetensors"):
        convert(tmp_path / "cut.safetensors", "kohya", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_layers_of_different_sizes_do_not_fuse(tmp_path):
    block, tensors = "transformer.transformer_blocks.0.attn", {}
    for name, rows in (("to_q", 24), ("to_k", 48)):
        tensors[f"{block}.{name}.lora_A.weight"] = torch.ones(2, 24)
        tensors[f"{block}.{name}.lora_B.weight"] = torch.ones(rows, 2)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="different sizes"):
        convert(tmp_path / "x.safetensors", "kohya", tmp_path / "y.safetensors")


def test_a_conversion_that_went_wrong_is_found_and_removed(cases, tmp_path, monkeypatch):
    from tuner.formats import convert as module

    right = module.fuse
    monkeypatch.setattr(module, "fuse", lambda parts: (*right(parts)[:2], right(parts)[2] * 1.001))
    with pytest.raises(StorageError, match="differs by"):
        convert(cases("transformer").folder, "kohya", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def refusals() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    two = torch.ones(4, 4)
    layer = "transformer.transformer_blocks.0.attn.to_k"
    stem = "lora_unet_joint_blocks_0_x_block_attn_qkv"

    def pair(key: str, wide: int = 24, out: int = 24) -> dict[str, torch.Tensor]:
        return {f"{key}.lora_A.weight": torch.ones(2, wide), f"{key}.lora_B.weight": torch.ones(out, 2)}

    def fused(key: str, wide: int = 24, out: int = 72) -> dict[str, torch.Tensor]:
        return {f"{key}.lora_down.weight": torch.ones(2, wide), f"{key}.lora_up.weight": torch.ones(out, 2)}

    return {
        "flux by its blocks": (pair("transformer.single_transformer_blocks.0.attn.to_q"), "FLUX"),
        "flux by its width": (pair(layer, 3072, 3072), "FLUX"),
        "flux of kohya": (fused("lora_unet_double_blocks_0_img_attn_qkv"), "FLUX"),
        "another transformer": (pair("transformer.blocks.0.attn1.to_q"), "have no layer transformer.blocks.0"),
        "sd15": (pair("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"), "does not have"),
        "t5": (pair(layer) | pair("text_encoder_3.encoder.block.0.layer.0.SelfAttention.q"), "T5"),
        "t5 of kohya": (fused("lora_te3_encoder_block_0_layer_0_SelfAttention_q"), "T5"),
        "onetrainer with T5": (fused("lora_transformer_transformer_blocks_0_attn_to_q") | fused("lora_te3_x"), "T5"),
        "sdxl or sd35": (fused("lora_te2_text_model_encoder_layers_0_mlp_fc1"), "does not say which"),
        "large on tiny": (pair(layer, 2432, 2432), "maps 2432 to 2432"),
        "fused of another size": (fused(stem, 24, 48), "maps 24 to 48"),
        "more blocks": (pair("transformer.transformer_blocks.30.attn.to_k"), "no layer"),
        "fused of no three": (fused(stem, 24, 70), "70 rows, not 3 equal parts"),
        "twice": (
            pair(layer)
            | {
                k.replace(".lora_", ".lora.").replace(".A.", ".down.").replace(".B.", ".up."): t
                for k, t in pair(layer).items()
            },
            "twice",
        ),
        "no second attention": (fused("lora_unet_joint_blocks_2_x_block_attn2_qkv"), "no layer"),
        "alpha with diffusers' keys": (pair(layer) | {f"{layer}.alpha": torch.tensor(1.0)}, "mixes keys"),
        "half a layer": ({f"{layer}.lora_A.weight": two}, "one of its two factors"),
        "no prefix": ({"transformer_blocks.0.attn.to_k.lora_A.weight": two}, "which model"),
    }


@pytest.fixture(scope="module")
def untouched(sd35_folder):
    """A pipeline that nothing may be loaded into."""
    return plain(sd35_folder)


@pytest.mark.parametrize("case", refusals())
def test_what_would_load_nothing_or_in_part_is_refused_with_the_reason(untouched, tmp_path, case):
    tensors, reason = refusals()[case]
    file = tmp_path / "x.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        load_adapter(untouched, file)
    assert str(file) in caught.value.message
    assert caught.value.hint or reason in ("one of its two factors", "70 rows, not 3 equal parts", "twice")
    assert loaded(untouched) == {}


def test_an_sd35_adapter_on_an_sd15_pipeline_is_refused(cases):
    from diffusers import StableDiffusionPipeline

    from tuner import toybox

    pipe = StableDiffusionPipeline.from_pretrained(str(toybox.folder("sd15")), local_files_only=True)
    with pytest.raises(DataError, match="trains the transformer, which this pipeline does not have") as caught:
        load_adapter(pipe, cases("transformer").folder)
    assert "StableDiffusion3Pipeline" in str(caught.value.hint)


# ---- card


def test_the_code_of_the_card_runs(cases, sd35_folder, monkeypatch):
    trained = cases("alpha below rank, with text")
    monkeypatch.chdir(trained.folder)
    card = (trained.folder / "README.md").read_text("utf-8")
    assert "byte for byte" in card
    assert "load_attn_procs" not in card
    code = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    assert len(code) == 2
    base = f"base = {str(sd35_folder)!r}\n"
    for block, whole in zip(code, (True, False), strict=True):
        block = re.sub(r"^base = .*\n", lambda _: base, block, flags=re.MULTILINE)
        block = block.replace("num_inference_steps=25", "num_inference_steps=1, height=64, width=64")
        names: dict = {}
        exec(compile(block, "README.md", "exec"), names)
        assert (gap(predict(names["pipe"]), trained.predict()) <= TOLERANCE) is whole
    (trained.folder / "picture.png").unlink()
