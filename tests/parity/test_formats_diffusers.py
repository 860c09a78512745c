"""A saved LoRA is, in plain diffusers, the adapter that was trained; and the check that says so can fail."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import trained_lora
from diffusers import StableDiffusionPipeline
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file, save_file
from trained_lora import TrainedLoRA

from tuner import toybox
from tuner.adapters.lora import ADAPTER
from tuner.backbones.sd15 import SD15
from tuner.errors import DataError, NumbersError, StorageError, UsageError
from tuner.formats.about import About
from tuner.formats.container import pack, read_header
from tuner.formats.load import load_adapter
from tuner.formats.loaders import quiet_loaders
from tuner.formats.lora import DIFFUSERS_FILE, write_lora
from tuner.formats.verify import verify_lora

NAME = "dog"
slow = pytest.mark.slow
FILES = (DIFFUSERS_FILE, f"{NAME}.safetensors")
PROMPT = "a photo of sks dog"
CASES = {
    "unet": {"rank": 4},
    "unet and text": {"rank": 4, "text_encoder_lr": 1e-4},
    "alpha below rank": {"rank": 8, "alpha": 3, "text_encoder_lr": 1e-4},
    "alpha above rank": {"rank": 2, "alpha": 5, "text_encoder_lr": 1e-4},
    "every linear layer": {"rank": 3, "alpha": 1, "where": "all_linear"},
}


class Trained(TrainedLoRA):
    """The toybox model with a LoRA that says something, and its files."""

    def __init__(self, folder: Path, *, dtype="fp32", compute=torch.float32, metadata="full", size=0.05, **lora):
        model = SD15(model="toybox").load(device=torch.device("cpu"), dtype=compute)
        about = About(NAME, dtype=dtype, metadata=metadata, base="toybox", prompt=PROMPT)
        super().__init__(model, folder, about, size=size, **lora)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return trained_lora.inputs(channels=4)


def plain() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(str(toybox.folder("sd15")), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def predict(pipe: StableDiffusionPipeline) -> torch.Tensor:
    ids = pipe.tokenizer(
        ["", PROMPT], padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        return pipe.unet(*inputs(), encoder_hidden_states=pipe.text_encoder(ids)[0]).sample


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.fixture(scope="module")
def base() -> torch.Tensor:
    return predict(plain())


@pytest.fixture(scope="module")
def untouched() -> StableDiffusionPipeline:
    """A pipeline that nothing may be loaded into."""
    return plain()


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made: dict[str, Trained] = {}

    def case(name: str) -> Trained:
        if name not in made:
            made[name] = Trained(tmp_path_factory.mktemp("run") / "adapter", **CASES[name])
        return made[name]

    return case


# ---- plain diffusers


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("case", CASES)
def test_the_pipeline_loads_each_file_as_trained(cases, base, case, file):
    trained = cases(case)
    pipe = plain()
    pipe.load_lora_weights(str(trained.folder), weight_name=file)
    found, want = predict(pipe), trained.predict()
    assert gap(found, want) <= 1e-5 * max(1.0, float(want.abs().max()))
    assert gap(found, base) > 1e-3


@pytest.mark.parametrize("file", FILES)
def test_a_path_to_the_file_alone_loads_as_well(cases, base, file):
    trained = cases("alpha below rank")
    pipe = plain()
    pipe.load_lora_weights(str(trained.folder / file))
    assert gap(predict(pipe), trained.predict()) <= 1e-5


def test_the_folder_alone_loads_the_file_for_diffusers(cases):
    trained = cases("unet")
    pipe = plain()
    pipe.load_lora_weights(str(trained.folder))
    assert gap(predict(pipe), trained.predict()) <= 1e-5


@pytest.mark.parametrize("case", ["unet", "every linear layer"])
def test_the_unet_loads_its_part(cases, base, case):
    trained = cases(case)
    pipe = plain()
    pipe.unet.load_lora_adapter(str(trained.folder), weight_name=DIFFUSERS_FILE, prefix="unet")
    assert gap(predict(pipe), trained.predict()) <= 1e-5
    assert gap(predict(pipe), base) > 1e-3


def test_of_a_file_with_text_the_unet_loads_its_part_alone(cases, base):
    trained = cases("alpha below rank")
    pipe = plain()
    pipe.unet.load_lora_adapter(str(trained.folder), weight_name=DIFFUSERS_FILE, prefix="unet")
    with torch.no_grad():
        text = trained.model.text_encoders["text_encoder"]
        text.disable_adapters()
        want = trained.predict()
        text.enable_adapters()
    assert gap(predict(pipe), want) <= 1e-5
    assert gap(predict(pipe), base) > 1e-3


@pytest.mark.parametrize("file", FILES)
def test_load_attn_procs_loads_no_lora(cases, base, file):
    """What the card says of diffusers' old loader."""
    pipe = plain()
    with quiet_loaders(), pytest.raises(ValueError, match="LoRA|lora|attention|Custom Diffusion"):
        pipe.unet.load_attn_procs(str(cases("unet").folder), weight_name=file)
    assert gap(predict(pipe), base) == 0


@pytest.mark.parametrize("file", FILES)
def test_an_older_reader_without_the_header_reads_the_same(cases, tmp_path, file):
    """Alpha is right by the tensors alone: readers other than diffusers know no `lora_adapter_metadata`."""
    trained = cases("alpha below rank")
    bare = tmp_path / file
    save_file(load_file(trained.folder / file), bare)
    pipe = plain()
    pipe.load_lora_weights(str(tmp_path), weight_name=file)
    assert gap(predict(pipe), trained.predict()) <= 1e-5


def test_no_alpha_hides_outside_the_factors(cases):
    """A reader that multiplies the factors and nothing else is right with diffusers' file; with `.alpha`, with kohya's."""
    trained = cases("alpha below rank")
    ours, kohya = (load_file(trained.folder / file) for file in FILES)
    for name in trained.state:
        if not name.endswith("lora_A.weight"):
            continue
        component, _, layer = name.removesuffix(".lora_A.weight").partition(".")
        layer = f"text_model.{layer}" if component == "text_encoder" else layer
        want = trained.lora.scale * trained.state[name.replace("lora_A", "lora_B")] @ trained.state[name]
        key = f"{component}.{layer}"
        assert gap(ours[f"{key}.lora_B.weight"] @ ours[f"{key}.lora_A.weight"], want) < 1e-6
        stem = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[component] + layer.replace(".", "_")
        down, up, alpha = (kohya[f"{stem}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        assert gap(float(alpha) / down.shape[0] * up @ down, want) < 1e-6


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", torch.float16), pytest.param("bf16", torch.bfloat16, marks=slow)])
def test_half_files_hold_half_tensors_and_verify(tmp_path, dtype, kind):
    trained = Trained(tmp_path, dtype=dtype, rank=4, alpha=3, text_encoder_lr=1e-4)
    verify_lora(trained.attachment, trained.files, trained.state)
    for file in FILES:
        tensors = load_file(tmp_path / file)
        assert {t.dtype for name, t in tensors.items() if not name.endswith(".alpha")} == {kind}
        assert all(t.is_contiguous() for t in tensors.values())
    live = trained.attachment.state_dict()
    assert all(t.dtype == torch.float32 and torch.equal(t, trained.state[name]) for name, t in live.items())


@pytest.mark.parametrize("compute", [torch.bfloat16, pytest.param(torch.float16, marks=slow)])
def test_files_of_a_half_precision_model_verify(tmp_path, compute):
    trained = Trained(tmp_path, compute=compute, rank=4, alpha=3, text_encoder_lr=1e-4)
    verify_lora(trained.attachment, trained.files, trained.state)
    live = trained.attachment.state_dict()
    assert all(t.dtype == torch.float32 and torch.equal(t, trained.state[name]) for name, t in live.items())


def test_tiny_trained_values_survive_half_files(tmp_path):
    """After one step B is about the learning rate; fp16 rounds that to its smallest steps, which is no fault."""
    trained = Trained(tmp_path, dtype="fp16", size=1e-6, rank=4, alpha=3)
    verify_lora(trained.attachment, trained.files, trained.state)


# ---- the files


def test_only_trained_tensors_are_in_the_files(cases):
    trained = cases("unet and text")
    ours, kohya = (load_file(trained.folder / file) for file in FILES)
    assert len(ours) == len(trained.state)
    assert len(kohya) == len(trained.state) // 2 * 3
    assert not [key for key in ours if not re.fullmatch(r"(unet|text_encoder\.text_model)\..*\.lora_[AB]\.weight", key)]


def test_names_of_compiled_and_wrapped_models_are_cleaned(cases, tmp_path):
    trained = cases("unet and text")
    state = {
        re.sub(r"^(unet|text_encoder)\.", r"\1.module._orig_mod.", name): tensor
        for name, tensor in trained.state.items()
    }
    write_lora(tmp_path, state, rank=4, scale=1.0, about=trained.about)
    for file in FILES:
        assert (tmp_path / file).read_bytes() == (trained.folder / file).read_bytes()


def test_an_encoder_with_text_model_in_its_names_gives_the_same_file(cases, tmp_path):
    """transformers 4 calls the layers text_model.encoder..., 5 calls them encoder...; the file is the same."""
    trained = cases("unet and text")
    state = {
        name.replace("text_encoder.encoder", "text_encoder.text_model.encoder"): t for name, t in trained.state.items()
    }
    assert state.keys() != trained.state.keys()
    write_lora(tmp_path, state, rank=4, scale=1.0, about=trained.about)
    for file in FILES:
        assert (tmp_path / file).read_bytes() == (trained.folder / file).read_bytes()


def test_values_that_no_file_can_hold_are_refused(tmp_path):
    trained = Trained(tmp_path / "good", rank=2)
    name = next(name for name in trained.state if name.endswith("lora_B.weight"))
    broken = trained.state | {name: torch.full_like(trained.state[name], float("nan"))}
    with pytest.raises(NumbersError, match="not finite"):
        write_lora(tmp_path / "bad", broken, rank=2, scale=1.0, about=trained.about)
    large = trained.state | {name: torch.full_like(trained.state[name], 1e6)}
    with pytest.raises(NumbersError, match="fp16"):
        write_lora(tmp_path / "bad", large, rank=2, scale=1.0, about=About(NAME, dtype="fp16"))


# ---- verify_lora


def snapshot(trained: Trained) -> dict:
    modules = {trained.model.denoiser_name: trained.model.denoiser, **trained.model.text_encoders}
    found = {"random": random.getstate(), "numpy": np.random.get_state()[1].tobytes(), "torch": torch.get_rng_state()}
    for component, module in modules.items():
        for name, parameter in module.named_parameters():
            found[f"{component}.{name}"] = (
                id(parameter),
                parameter.requires_grad,
                parameter.dtype,
                parameter.detach().clone(),
            )
            found[f"{component}.{name}.grad"] = None if parameter.grad is None else parameter.grad.clone()
        for name, part in module.named_modules():
            own = {key: value for key, value in vars(part).items() if key.startswith(("_forward", "_backward"))}
            found[f"{component}.{name}."] = (
                id(part),
                type(part),
                part.training,
                {key: list(map(id, value.values())) for key, value in own.items() if isinstance(value, dict)},
            )
            found[f"{component}.{name}.keys"] = sorted(vars(part))
            if isinstance(part, LoraLayer):
                found[f"{component}.{name}.peft"] = (
                    part.active_adapters,
                    part.disable_adapters,
                    dict(part.scaling),
                    sorted(part.lora_A),
                )
        found[f"{component}.config"] = (
            {name: config.to_dict() for name, config in module.peft_config.items()}
            if component in trained.attachment.targets
            else None
        )
    return found


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def step(trained: Trained) -> torch.Tensor:
    """One optimizer step with dropout; the new weights as one vector."""
    params = [p for group in trained.attachment.param_groups() for p in group.params.values()]
    optimizer = torch.optim.AdamW(params, lr=1e-2)
    cond = trained.model.encode_text(trained.model.tokenize(["", PROMPT]))
    trained.model.denoise(*inputs(), cond).square().mean().backward()
    optimizer.step()
    return torch.cat([p.detach().flatten() for p in params])


@pytest.mark.parametrize("compute", [torch.float32, pytest.param(torch.bfloat16, marks=slow)])
def test_verifying_leaves_the_live_model_as_it_was(tmp_path, compute):
    trained = Trained(tmp_path, compute=compute, rank=4, alpha=3, dropout=0.3, text_encoder_lr=1e-4)
    trained.model.denoiser.train()
    trained.attachment.train(on=True)
    torch.manual_seed(5)
    step(trained)
    average = {name: tensor * 0.9 for name, tensor in trained.attachment.state_dict().items()}
    folder = tmp_path / "average"
    folder.mkdir()
    files = write_lora(folder, average, rank=4, scale=trained.lora.scale, about=trained.about)
    before = snapshot(trained)
    verify_lora(trained.attachment, files, average)
    after = snapshot(trained)
    assert before.keys() == after.keys()
    assert [key for key in before if not same(before[key], after[key])] == []


def test_training_goes_on_as_if_nothing_had_been_verified(tmp_path):
    found = []
    for verified in (False, True):
        trained = Trained(tmp_path / str(verified), rank=4, dropout=0.3, text_encoder_lr=1e-4)
        trained.attachment.train(on=True)
        torch.manual_seed(5)
        step(trained)
        if verified:
            state = {name: tensor.clone() for name, tensor in trained.attachment.state_dict().items()}
            files = write_lora(tmp_path / "True", state, rank=4, scale=1.0, about=trained.about)
            verify_lora(trained.attachment, files, state)
        found.append(step(trained))
    assert torch.equal(*found)


def test_verify_compares_with_the_given_state_not_with_the_live_one(tmp_path):
    trained = Trained(tmp_path, rank=4)
    average = {name: tensor * 0.5 for name, tensor in trained.state.items()}
    with pytest.raises(StorageError):
        verify_lora(trained.attachment, trained.files, average)
    files = write_lora(tmp_path, average, rank=4, scale=1.0, about=trained.about)
    verify_lora(trained.attachment, files, average)


def test_an_adapter_far_out_verifies(tmp_path):
    """Where the model answers the last bit of a factor with a large change, folding the scale into B is still no fault."""
    trained = Trained(tmp_path, size=1.0, rank=2, alpha=5, text_encoder_lr=1e-4)
    pipe = plain()
    pipe.load_lora_weights(str(trained.folder), weight_name=DIFFUSERS_FILE)
    assert gap(predict(pipe), trained.predict()) > 1e-4
    verify_lora(trained.attachment, trained.files, trained.state)


def test_an_untrained_adapter_verifies(tmp_path):
    trained = Trained(tmp_path, size=0.0, rank=4)
    verify_lora(trained.attachment, trained.files, trained.state)


def test_verify_holds_no_second_copy_of_the_base(tmp_path, monkeypatch):
    from tuner.formats import verify

    trained = Trained(tmp_path, rank=4, text_encoder_lr=1e-4)
    live = {
        p.data_ptr() for m in (trained.model.denoiser, *trained.model.text_encoders.values()) for p in m.parameters()
    }
    seen = []
    real = verify.predict

    def watched(model):
        seen.append([p for m in (model.denoiser, *model.text_encoders.values()) for p in m.parameters()])
        return real(model)

    monkeypatch.setattr(verify, "predict", watched)
    verify_lora(trained.attachment, trained.files, trained.state)
    assert len(seen) == 4  # trained, base, and each file
    own = [[p for p in params if p.data_ptr() not in live] for params in seen]
    rank = 4
    assert all(rank in p.shape for params in own for p in params)  # factors alone


def unfolded(tensors):
    return {name: t / 0.75 if name.endswith("lora_B.weight") else t for name, t in tensors.items()}


def without_prefix(tensors):
    return {name.replace("text_encoder.text_model.", "text_encoder."): t for name, t in tensors.items()}


def wrong_prefix(tensors):
    return {name.replace("text_encoder.text_model.", "text_encoder.model."): t for name, t in tensors.items()}


def zeroed(tensors):
    return {name: t * 0 if name.endswith(("lora_B.weight", "lora_up.weight")) else t for name, t in tensors.items()}


def one_zeroed(tensors):
    name = next(name for name in tensors if name.endswith(("lora_B.weight", "lora_up.weight")))
    return tensors | {name: tensors[name] * 0}


def one_layer_dropped(tensors):
    stem = re.split(r"\.lora_|\.alpha", next(iter(tensors)))[0]
    return {name: t for name, t in tensors.items() if not name.startswith(f"{stem}.")}


def text_dropped(tensors):
    return {name: t for name, t in tensors.items() if "text_" not in name}


def one_key_dropped(tensors):
    name = next(name for name in tensors if "weight" in name)
    return {key: t for key, t in tensors.items() if key != name}


def wrong_alpha(tensors):
    return {name: t * 2 if name.endswith(".alpha") else t for name, t in tensors.items()}


def no_alpha(tensors):
    return {name: t for name, t in tensors.items() if not name.endswith(".alpha")}


def swapped(tensors):
    down = [name for name in tensors if name.endswith(("attn1.to_q.lora_A.weight", "attn1_to_q.lora_down.weight"))]
    one, other = down[0], next(name for name in down[1:] if tensors[name].shape == tensors[down[0]].shape)
    return tensors | {one: tensors[other], other: tensors[one]}


def rounded(tensors):
    return {name: t if name.endswith(".alpha") else t.half().float() for name, t in tensors.items()}


BOTH = (zeroed, one_layer_dropped, one_key_dropped, one_zeroed, text_dropped, swapped, rounded)
BREAKS = [
    *((DIFFUSERS_FILE, broken) for broken in (unfolded, wrong_prefix, *BOTH)),
    *((f"{NAME}.safetensors", broken) for broken in (wrong_alpha, no_alpha)),
    *(pytest.param(f"{NAME}.safetensors", broken, marks=slow) for broken in BOTH),
]


@pytest.fixture(scope="module")
def breakable(tmp_path_factory):
    trained = Trained(tmp_path_factory.mktemp("breakable"), rank=4, alpha=3, text_encoder_lr=1e-4)
    verify_lora(trained.attachment, trained.files, trained.state)
    return trained


@pytest.mark.parametrize(("file", "broken"), BREAKS, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_file_is_found(breakable, tmp_path, file, broken):
    wrong = tmp_path / file
    source = breakable.folder / file
    wrong.write_bytes(pack(broken(load_file(source)), read_header(source).metadata))
    with pytest.raises(StorageError, match="loaded back by diffusers") as caught:
        verify_lora(breakable.attachment, [wrong], breakable.state)
    assert str(wrong) in caught.value.message


def test_a_file_without_text_model_is_never_written_though_this_diffusers_forgives_it(breakable, tmp_path):
    """diffusers 0.42 reads both spellings under transformers 5; older readers and ComfyUI know `text_model.` alone."""
    source = breakable.folder / DIFFUSERS_FILE
    assert not [key for key in load_file(source) if key.startswith("text_encoder.") and ".text_model." not in key]


def test_wrong_adapter_metadata_is_found(breakable, tmp_path):
    """The header's alpha decides in diffusers: one that disagrees with the folded factors must not pass."""
    source, wrong = breakable.folder / DIFFUSERS_FILE, tmp_path / DIFFUSERS_FILE
    metadata = dict(read_header(source).metadata)
    metadata["lora_adapter_metadata"] = metadata["lora_adapter_metadata"].replace(
        '"unet.lora_alpha": 4', '"unet.lora_alpha": 3'
    )
    wrong.write_bytes(pack(load_file(source), metadata))
    with pytest.raises(StorageError, match="differs by"):
        verify_lora(breakable.attachment, [wrong], breakable.state)


@pytest.mark.parametrize("size", [1e-7, pytest.param(1e-3, marks=slow)])
def test_a_small_effect_hides_no_fault(tmp_path, size):
    """After few steps the prediction has hardly changed; the comparison by layer still finds a wrong alpha."""
    trained = Trained(tmp_path, size=size, rank=4, alpha=3)
    verify_lora(trained.attachment, trained.files, trained.state)
    source = trained.folder / DIFFUSERS_FILE
    source.write_bytes(pack(unfolded(load_file(source)), read_header(source).metadata))
    with pytest.raises(StorageError):
        verify_lora(trained.attachment, [source], trained.state)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"not a file"])
def test_a_damaged_file_is_found(breakable, tmp_path, content):
    wrong = tmp_path / DIFFUSERS_FILE
    wrong.write_bytes(content)
    with pytest.raises(StorageError, match="cannot be read back"):
        verify_lora(breakable.attachment, [wrong], breakable.state)


# ---- load_adapter


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("strength", [0.6, 0.0, pytest.param(-0.5, marks=slow)])
def test_strength_scales_the_update(cases, base, file, strength):
    trained = cases("alpha below rank")
    pipe = plain()
    load_adapter(pipe, trained.folder / file, strength)
    layers = [
        part
        for m in (trained.model.denoiser, *trained.model.text_encoders.values())
        for part in m.modules()
        if isinstance(part, LoraLayer)
    ]
    for layer in layers:
        layer.set_scale(ADAPTER, strength)
    want = trained.predict()
    for layer in layers:
        layer.set_scale(ADAPTER, 1.0)
    assert gap(predict(pipe), want) <= 1e-5
    assert strength or gap(predict(pipe), base) <= 1e-6


def test_adapters_add_up_in_any_order_and_keep_their_strength(cases, tmp_path):
    one, other = cases("unet and text"), Trained(tmp_path / "adapter", size=0.2, rank=2, text_encoder_lr=1e-4)
    found = []
    for order in ((one, "one", 0.7), (other, "other", 0.4)), ((other, "other", 0.4), (one, "one", 0.7)):
        pipe = plain()
        for trained, name, strength in order:
            load_adapter(pipe, trained.folder, strength, name=name)
        found.append(predict(pipe))
    assert gap(*found) <= 1e-5
    pipe = plain()
    with quiet_loaders():
        for trained, name in ((one, "one"), (other, "other")):
            pipe.load_lora_weights(str(trained.folder), weight_name=DIFFUSERS_FILE, adapter_name=name)
    pipe.set_adapters(["one", "other"], [0.7, 0.4])
    assert gap(found[0], predict(pipe)) <= 1e-5


def test_loaded_adapters_are_frozen(cases):
    pipe = plain()
    load_adapter(pipe, cases("unet and text").folder)
    assert not [name for name, p in pipe.unet.named_parameters() if p.requires_grad and "lora" in name]


def test_a_run_directory_loads_and_an_unfinished_one_names_its_newest_save(cases, tmp_path):
    trained = cases("unet")
    pipe = plain()
    load_adapter(pipe, trained.folder.parent)
    assert gap(predict(pipe), trained.predict()) <= 1e-5
    for number in (5, 40, 100):
        folder = tmp_path / "checkpoints" / str(number) / "adapter"
        folder.mkdir(parents=True)
        (folder / DIFFUSERS_FILE).write_bytes((trained.folder / DIFFUSERS_FILE).read_bytes())
    with pytest.raises(DataError, match="not finished") as caught:
        load_adapter(pipe, tmp_path)
    assert str(Path("100") / "adapter") in caught.value.hint


def test_names(cases):
    trained = cases("unet")
    pipe = plain()
    load_adapter(pipe, trained.folder)
    with pytest.raises(UsageError, match="has an adapter named"):
        load_adapter(pipe, trained.folder)
    with pytest.raises(UsageError, match="cannot be named"):
        load_adapter(pipe, trained.folder, name="a.b")
    with pytest.raises(UsageError, match="not a number"):
        load_adapter(pipe, trained.folder, strength=float("nan"))
    load_adapter(pipe, trained.folder / FILES[1])
    assert sorted(pipe.unet.peft_config) == sorted([trained.folder.parent.name, NAME])


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".PTH"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    with pytest.raises(DataError, match="run code"):
        load_adapter(None, tmp_path / f"evil{suffix}")  # type: ignore[arg-type]


def refusals() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    two = torch.ones(4, 4)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    sdxl = {f"{layer}.lora_A.weight": torch.ones(2, 2048), f"{layer}.lora_B.weight": torch.ones(4, 2)}
    return {
        "nothing": ({}, "no tensors"),
        "another width": (sdxl, "SDXL"),
        "sdxl's second encoder": ({"lora_te2_x.lora_down.weight": two}, "SDXL"),
        "a transformer": ({"transformer.x.lora_A.weight": two}, "such as FLUX"),
        "lokr": ({"lora_unet_x.lokr_w1": two}, "LoKr"),
        "norms alone": ({f"{layer}.lora_magnitude_vector": two}, "one of its two factors"),
        "norms of neither": (
            {f"{layer}.{name}": two for name in ("lora_A.weight", "lora_B.weight", "dora_scale")},
            "neither of each output nor of each input",
        ),
        "an embedding": ({"emb_params": two}, "its vectors have 4 values"),
        "a checkpoint": ({"model.diffusion_model.out.2.weight": two}, "whole checkpoint"),
        "a model": ({"down_blocks.0.conv.weight": two}, "whole model"),
        "an unknown layer": ({f"{layer}s.lora_A.weight": two, f"{layer}s.lora_B.weight": two}, "no layer"),
        "another size": ({f"{layer}.lora_A.weight": two, f"{layer}.lora_B.weight": two}, "maps 4 to 4"),
        "half a layer": ({f"{layer}.lora_A.weight": two}, "one of its two factors"),
        "misfits": ({f"{layer}.lora_A.weight": torch.ones(3, 4), f"{layer}.lora_B.weight": two}, "do not fit"),
        "whole numbers": ({f"{layer}.lora_A.weight": two.int(), f"{layer}.lora_B.weight": two.int()}, "I32"),
        "mixed": ({f"{layer}.lora_A.weight": two, "lora_unet_x.lora_down.weight": two}, "mixes keys"),
        "no prefix": ({"mid_block.x.lora_A.weight": two}, "which model"),
        "strange": ({"weird": two, "weirder": two}, "no LoRA"),
    }


@pytest.mark.parametrize("case", refusals())
def test_what_would_load_nothing_is_refused_with_the_reason(untouched, tmp_path, case):
    tensors, reason = refusals()[case]
    file = tmp_path / "x.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        load_adapter(untouched, file)
    assert str(file) in caught.value.message
    assert "peft_config" not in vars(untouched.unet)


def test_values_that_are_not_finite_are_refused(cases, untouched, tmp_path):
    tensors = load_file(cases("unet").folder / DIFFUSERS_FILE)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] * float("inf")}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=re.escape(name)):
        load_adapter(untouched, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "change", [('"init_lora_weights": true', '"init_lora_weights": "olora"'), ('"use_dora": false', '"use_dora": true')]
)
def test_a_header_that_asks_for_more_than_a_lora_is_refused(cases, untouched, tmp_path, change):
    source = cases("unet").folder / DIFFUSERS_FILE
    metadata = dict(read_header(source).metadata)
    text = metadata["lora_adapter_metadata"].replace("unet." + change[0][1:], "unet." + change[1][1:])
    assert text != metadata["lora_adapter_metadata"]
    (tmp_path / "x.safetensors").write_bytes(pack(load_file(source), metadata | {"lora_adapter_metadata": text}))
    with pytest.raises(DataError):
        load_adapter(untouched, tmp_path / "x.safetensors")


def test_what_the_loader_refuses_leaves_the_pipeline_clean(cases, base, tmp_path):
    source = cases("unet and text").folder / DIFFUSERS_FILE
    metadata = dict(read_header(source).metadata)
    text = metadata["lora_adapter_metadata"].replace('"text_encoder.r": 4', '"text_encoder.r": 2')
    (tmp_path / "x.safetensors").write_bytes(pack(load_file(source), metadata | {"lora_adapter_metadata": text}))
    pipe = plain()
    with pytest.raises(DataError):
        load_adapter(pipe, tmp_path / "x.safetensors")
    assert gap(predict(pipe), base) == 0
    load_adapter(pipe, source, name="x")


def test_the_names_that_diffusers_wrote_before_peft_load(cases, base, tmp_path):
    trained = cases("unet")
    tensors = load_file(trained.folder / DIFFUSERS_FILE)
    old = {name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): t for name, t in tensors.items()}
    save_file(old, tmp_path / "x.safetensors")
    pipe = plain()
    load_adapter(pipe, tmp_path / "x.safetensors")
    assert gap(predict(pipe), trained.predict()) <= 1e-5


# ---- card and example


def blocks(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("case", ["unet and text", pytest.param("unet", marks=slow)])
def test_the_code_of_the_card_runs(cases, base, monkeypatch, case):
    trained = cases(case)
    monkeypatch.chdir(trained.folder)
    card = (trained.folder / "README.md").read_text("utf-8")
    code = blocks(card)
    assert len(code) == 2
    assert "load_attn_procs` no longer" in card
    found = []
    for block in code:
        names: dict = {}
        exec(compile(block, "README.md", "exec"), names)
        found.append(names["pipe"])
    assert (trained.folder / "picture.png").is_file()
    (trained.folder / "picture.png").unlink()
    assert gap(predict(found[0]), trained.predict()) <= 1e-5
    assert gap(predict(found[1]), base) > 1e-3


def test_the_example_runs(cases, tmp_path, monkeypatch, capsys):
    import runpy

    example = Path(__file__).parents[2] / "examples" / "load_in_diffusers.py"
    trained = cases("unet and text")
    for file in FILES:
        picture = tmp_path / f"{file}.png"
        monkeypatch.setattr(
            "sys.argv",
            [str(example), str(trained.folder / file), "--base", "toybox", "--steps", "2", "--out", str(picture)],
        )
        runpy.run_path(str(example), run_name="__main__")
        assert picture.is_file()
        assert str(picture) in capsys.readouterr().out


def test_deepcopied_shadows_do_not_call_the_live_model(tmp_path):
    """A wrapper that sits on the live module's forward must not answer for the shadow."""
    trained = Trained(tmp_path, rank=2)
    real = trained.model.denoiser.forward
    trained.model.denoiser.forward = lambda *a, **k: real(*a, **k)  # type: ignore[method-assign]
    verify_lora(trained.attachment, trained.files, trained.state)
    source = trained.folder / DIFFUSERS_FILE
    source.write_bytes(pack(zeroed(load_file(source)), read_header(source).metadata))
    with pytest.raises(StorageError):
        verify_lora(trained.attachment, [source], copy.copy(trained.state))
