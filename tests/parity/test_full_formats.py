"""A saved model through other people's loaders, and its single file against the published layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from models import load_sd15
from original_sd3 import layers as original_layers
from tiny_sd35 import load_sd35

from tuner import toybox
from tuner.adapters import Adapter
from tuner.backbones import Backbone, bundled, mmdit_layout, single_file
from tuner.draws import Draws
from tuner.errors import NumbersError, StorageError
from tuner.formats import compvis, container, mmdit
from tuner.formats.about import About

CLIPS = {"sd15": ["text_encoder"], "sd35": ["text_encoder", "text_encoder_2"]}
PIPELINES = {"sd15": "StableDiffusionPipeline", "sd35": "StableDiffusion3Pipeline"}


def trained(model, **keys):
    """A model whose every trained weight was moved a little."""
    attachment = Adapter.read({"name": "full", **keys}).attach(model, keep_base=False, draws=Draws(0))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in attachment.state_dict().values():
            tensor.add_(torch.randn(tensor.shape, generator=g) * 0.01)
    return attachment


def saved(folder: Path, attachment, state=None, **about):
    state = attachment.state_dict() if state is None else state
    folder.mkdir()
    told = About("dog", family=attachment.model.backbone.key, base="toybox", **about)
    files = attachment.export(folder, state, told)
    attachment.verify(files, state)
    return files


def fresh(family: str, sd35_folder: Path):
    return load_sd15("toybox") if family == "sd15" else load_sd35(sd35_folder)


def predict(model) -> torch.Tensor:
    x = torch.randn(1, model.channels, 8, 8, generator=torch.manual_seed(0))
    with torch.no_grad():
        return model.denoise(x, torch.tensor([500.0]), model.encode_text(model.tokenize(["a photo of a dog"])))


@pytest.mark.parametrize("family", ["sd15", "sd35"])
def test_diffusers_loads_the_folder_and_it_is_the_trained_model(family, sd35_folder, tmp_path):
    import diffusers

    model = fresh(family, sd35_folder)
    base = predict(model)
    index = saved(tmp_path / "out", trained(model, text_encoder_lr=1e-4))[0]
    pipe = getattr(diffusers, PIPELINES[family]).from_pretrained(index.parent, local_files_only=True)
    for name in (model.denoiser_name, *CLIPS[family], "vae"):
        theirs, ours = getattr(pipe, name).state_dict(), model.components[name].state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
    again = Backbone.read({"name": family, "model": str(index.parent)}).load(
        device=torch.device("cpu"), dtype=torch.float32
    )
    if family == "sd35":
        again = load_sd35(index.parent)
    assert torch.equal(predict(again), predict(model))
    assert not torch.equal(predict(again), base)


@pytest.mark.parametrize("family", ["sd15", "sd35"])
def test_what_was_not_trained_is_the_bases_byte_for_byte(family, sd35_folder, tmp_path):
    model = fresh(family, sd35_folder)
    place = saved(tmp_path / "out", trained(model))[0].parent
    assert model.origin is not None
    theirs = {p.relative_to(place): p for p in place.rglob("*") if p.is_file()}
    ours = {p.relative_to(model.origin): p for p in model.origin.rglob("*") if p.is_file()}
    changed = {path for path in theirs if theirs[path].read_bytes() != ours[path].read_bytes()}
    weights = Path(model.denoiser_name, "diffusion_pytorch_model.safetensors")
    assert weights in changed
    assert changed <= {weights, Path(model.denoiser_name, "config.json"), Path("model_index.json")}
    assert {path for path in ours if path not in theirs} == set()
    assert json.loads((place / "model_index.json").read_text()) == json.loads(
        (model.origin / "model_index.json").read_text()
    )


@pytest.mark.parametrize("family", ["sd15", "sd35"])
def test_diffusers_reads_the_single_file(family, sd35_folder, tmp_path):
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    model = fresh(family, sd35_folder)
    files = saved(tmp_path / "out", trained(model))
    kind = UNet2DConditionModel if family == "sd15" else SD3Transformer2DModel
    config = str(files[0].parent)
    found = kind.from_single_file(str(files[1]), config=config, subfolder=model.denoiser_name, local_files_only=True)
    ours = model.denoiser.state_dict()
    assert found.state_dict().keys() == ours.keys()
    assert all(torch.equal(value, ours[key]) for key, value in found.state_dict().items())


def test_a_whole_pipeline_from_the_single_file_of_sd15(tmp_path):
    from diffusers import StableDiffusionPipeline

    model = load_sd15("toybox")
    files = saved(tmp_path / "out", trained(model, text_encoder_lr=1e-4))
    pipe = StableDiffusionPipeline.from_single_file(
        str(files[1]), config=str(files[0].parent), local_files_only=True, safety_checker=None
    )
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = model.components[name].state_dict(), getattr(pipe, name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name


def test_the_true_sd15_has_the_published_names_and_shapes():
    """686 + 248 + 196 tensors (position ids, a buffer, are left out), read back under the very names they came from."""
    from tuner.backbones.sd15_model import build

    configs = bundled.configs()
    modules = dict(zip(("unet", "vae", "text_encoder"), build(configs, Path("x")), strict=True))
    parts = {
        name: {key: value for key, value in module.state_dict().items() if value.is_floating_point()}
        for name, module in modules.items()
    }
    pieces = compvis.pieces(parts, configs)
    counts = [sum(key.startswith(prefix) for key in pieces) for prefix in single_file.PREFIXES.values()]
    assert counts == [686, 248, 196]
    shapes = {
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.weight": (768, 3072),
    }
    assert {key: container.joined_shape(pieces[key]) for key in shapes} == shapes
    whole = {key: value[0] for key, value in pieces.items()}
    back = single_file.convert(Path("x"), whole, configs)
    for name in ("unet", "vae"):
        assert {k: tuple(v.shape) for k, v in back[name].items()} == {k: tuple(v.shape) for k, v in parts[name].items()}


@pytest.mark.parametrize(
    "size",
    ["medium", pytest.param("large", marks=pytest.mark.slow), pytest.param("sd3_medium", marks=pytest.mark.slow)],
)
def test_the_true_sd3_has_the_published_layers(size):
    """Against the structure of the original code, which lists what every linear layer is called and how large it is."""
    from diffusers import SD3Transformer2DModel

    config = mmdit_layout.configs(size)["transformer"]
    with torch.device("meta"):
        module = SD3Transformer2DModel.from_config(dict(config))
    pieces = mmdit.transformer_pieces(module.state_dict(), config)
    linear = {
        key.removesuffix(".weight"): container.joined_shape(value)
        for key, value in pieces.items()
        if key.endswith(".weight") and len(container.joined_shape(value)) == 2
    }
    assert linear == dict(original_layers(config))
    others = {key for key in pieces if key.rpartition(".")[0] not in linear}
    assert {"pos_embed", "x_embedder.proj.weight", "x_embedder.proj.bias"} <= others
    norms = {key for key in others if ".ln_" in key}
    assert others - norms == {"pos_embed", "x_embedder.proj.weight", "x_embedder.proj.bias"}
    assert bool(norms) == bool(config["qk_norm"])


def test_from_a_single_file_the_folder_is_whole(tmp_path, monkeypatch):
    """No folder in diffusers' layout is there to copy from."""
    from diffusers import StableDiffusionPipeline

    source = saved(tmp_path / "first", trained(load_sd15("toybox")))[1]
    backbone = Backbone.read({"name": "sd15", "model": str(source)})
    configs = toybox.configs("sd15")
    model = single_file.load_file(
        backbone, source, device=torch.device("cpu"), dtype=torch.float32, configs={**bundled.configs(), **configs}
    )
    assert model.origin is None
    index = saved(tmp_path / "second", trained(model), dtype="fp16")[0]
    pipe = StableDiffusionPipeline.from_pretrained(index.parent, local_files_only=True, torch_dtype=torch.float32)
    for name in ("vae", "text_encoder"):
        ours, theirs = model.components[name].state_dict(), getattr(pipe, name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
    assert (index.parent / "scheduler" / "scheduler_config.json").is_file()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_narrow_files_hold_the_rounded_weights(dtype, tmp_path):
    attachment = trained(load_sd15("toybox"))
    files = saved(tmp_path / "out", attachment, dtype=dtype)
    kinds = {entry.dtype for entry in container.read_header(files[1]).tensors.values()}
    assert kinds == {dtype.upper().replace("FP", "F")}
    assert files[1].stat().st_size < 10_000_000


def test_values_that_do_not_fit_are_named(tmp_path):
    attachment = trained(load_sd15("toybox"))
    state = {name: tensor.clone() for name, tensor in attachment.state_dict().items()}
    state["unet.conv_in.bias"][0] = 1e30
    with pytest.raises(NumbersError, match="conv_in"):
        saved(tmp_path / "out", attachment, state, dtype="fp16")


def test_the_average_is_saved_and_the_frozen_rest_beside_it(tmp_path):
    """`state` may be another than the live weights."""
    model = load_sd15("toybox")
    attachment = trained(model, where="attention")
    state = {name: tensor + 1 for name, tensor in attachment.state_dict().items()}
    index = saved(tmp_path / "out", attachment, state)[0]
    again = load_sd15(index.parent).denoiser.state_dict()
    for name, value in model.denoiser.state_dict().items():
        assert torch.equal(again[name], state.get(f"unet.{name}", value))


@pytest.mark.parametrize("place", ["model/unet/diffusion_pytorch_model.safetensors", "dog.safetensors"])
def test_a_changed_weight_is_noticed(place, tmp_path):
    attachment = trained(load_sd15("toybox"))
    files = saved(tmp_path / "out", attachment)
    path = tmp_path / "out" / place
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 0x40
    path.write_bytes(raw)
    with pytest.raises(StorageError, match="loaded back"):
        attachment.verify(files, attachment.state_dict())


@pytest.mark.parametrize("gone", ["model/vae", "model/scheduler/scheduler_config.json", "model/unet/config.json"])
def test_a_missing_part_is_noticed(gone, tmp_path):
    attachment = trained(load_sd15("toybox"))
    files = saved(tmp_path / "out", attachment)
    path = tmp_path / "out" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(StorageError, match="loaded back"):
        attachment.verify(files, attachment.state_dict())


def test_the_card_and_the_header_say_what_it_is(tmp_path):
    from tuner.formats.inspect import inspect_file

    attachment = trained(load_sd15("toybox"))
    saved(tmp_path / "adapter", attachment, prompt="a photo of sks dog", facts={"step": 5})
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "a whole model, not an adapter" in card
    code = card.split("```python\n")[1].split("```")[0]
    assert 'from_pretrained("model"' in code
    compile(code, "card", "exec")
    facts = inspect_file(tmp_path)
    assert (facts["kind"], facts["backbone"], facts["problem"]) == ("full", "sd15", None)
    assert facts["trained"] == ["unet"]
    header = container.read_header(tmp_path / "adapter" / "dog.safetensors").metadata
    assert header["modelspec.architecture"] == "stable-diffusion-v1"
    assert str(tmp_path) not in json.dumps(dict(header))


def test_equal_models_are_equal_bytes(tmp_path):
    one, two = (saved(tmp_path / name, trained(load_sd15("toybox"))) for name in ("one", "two"))
    assert one[1].read_bytes() == two[1].read_bytes()


@pytest.mark.parametrize("family", ["sd15", "sd35"])
def test_onto_its_base_it_goes_at_any_strength_and_off_again(family, sd35_folder, tmp_path):
    from tuner.formats.container import read_header
    from tuner.formats.model_kind import ModelKind

    learner = trained(fresh(family, sd35_folder), text_encoder_lr=1e-4)
    file = saved(tmp_path / "out", learner)[1]
    model = fresh(family, sd35_folder)
    pipe, before = model.pipeline(), {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    take_off = ModelKind().load(pipe, file, read_header(file), 0.5, "x")
    want = learner.model.denoiser.state_dict()
    for name, value in model.denoiser.state_dict().items():
        assert torch.allclose(value, (before[name] + want[name]) / 2, atol=1e-6)
    take_off()
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    ModelKind().load(pipe, file, read_header(file), 1.0, "x")
    assert torch.equal(predict(model), predict(learner.model))
