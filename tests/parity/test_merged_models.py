"""A merged model predicts what the base with the adapters loaded beside it predicts; as a folder and as one file."""

from __future__ import annotations

import odd_loras
import pytest
import torch
from models import load_sd15
from tiny_sd35 import load_sd35

from tuner import toybox
from tuner.adapters import Adapter
from tuner.backbones import Backbone, single_file
from tuner.drawing import Strong
from tuner.draws import Draws
from tuner.errors import DataError, UsageError
from tuner.files.merge import merge
from tuner.formats.about import About
from tuner.formats.container import read_header
from tuner.formats.load import put_in
from tuner.formats.whole_model import stored
from tuner.watch import Watcher

STRENGTHS = (0.8, -0.5)


class Told(Watcher):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def load(family: str, place: str = "toybox"):
    return load_sd15(place) if family == "sd15" else load_sd35(place, t5_length=16)


def predict(model) -> torch.Tensor:
    """On a drawn x_t, without a prompt and with one; the text encoders' part is in it."""
    x = torch.randn(2, model.channels, 8, 8, generator=torch.manual_seed(0))
    with torch.no_grad():
        cond = model.encode_text(model.tokenize(["", "a photo of a red circle"]))
        return model.denoise(x, torch.tensor([700.0, 100.0]), cond).float()


def files(family: str, folder) -> list[Strong]:
    """Two LoRAs under different keys, one of them with an alpha."""
    first, second = odd_loras.factors(family, 1), odd_loras.factors(family, 2, rank=2)
    one = odd_loras.kohya(first, alpha=1.5) if family == "sd15" else odd_loras.diffusers(first)
    paths = [
        odd_loras.save(folder / "one.safetensors", one),
        odd_loras.save(folder / "two.safetensors", odd_loras.diffusers(second)),
    ]
    return [Strong(path, strength) for path, strength in zip(paths, STRENGTHS, strict=True)]


@pytest.fixture(scope="module", params=["sd15", "sd35"])
def merged(request, tmp_path_factory):
    """Family, adapters, and the folder that they were merged into."""
    folder = tmp_path_factory.mktemp("merged")
    adapters = files(request.param, folder)
    made = merge("toybox", adapters, folder / "model", Watcher(), backbone=None, dtype="fp32")
    return request.param, adapters, made


def test_merged_equals_base_and_adapters(merged):
    family, adapters, made = merged
    beside = load(family)
    base = predict(beside)
    pipe = beside.pipeline()
    for number, adapter in enumerate(adapters):
        put_in(pipe, adapter.path, adapter.strength, f"a{number}")
    want = predict(beside)
    found = predict(load(family, str(made.out)))
    size = max(1.0, float(want.abs().max()))
    assert float((found - want).abs().max()) <= 1e-4 * size
    assert float((want - base).abs().max()) > 1e-2 * size
    assert made.rounding == 0
    assert sum(made.layers.values()) == len(odd_loras.sizes(family))


def test_what_no_adapter_touches_is_the_bases_own(merged):
    family, _, made = merged
    there, here = load(family, str(made.out)), load(family)
    touched = {(part, layer) for part, layer in odd_loras.sizes(family)}
    for component in here.components:
        ours, theirs = stored(here, component), stored(there, component)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            layer = name.removesuffix(".weight")
            spelled = {(component, layer), (component, f"text_model.{layer}")}
            assert torch.equal(value.float(), theirs[name].float()) != bool(spelled & touched), (component, name)


def test_the_single_file_is_the_same_model(merged, tmp_path):
    family, adapters, made = merged
    out = tmp_path / "one.safetensors"
    merge("toybox", adapters, out, Watcher(), backbone=None, dtype="fp32")
    header = read_header(out)
    assert header.metadata["tuner_merged"] == "one.safetensors:0.8, two.safetensors:-0.5"
    folder = load(family, str(made.out))
    if family == "sd15":
        backbone = Backbone.read({"name": "sd15", "model": str(out)})
        trees = {**single_file.bundled.configs(), **toybox.configs("sd15")}
        found = single_file.load_file(backbone, out, device=torch.device("cpu"), dtype=torch.float32, configs=trees)
        for component in ("unet", "text_encoder"):
            want, own = folder.components[component].state_dict(), found.components[component].state_dict()
            assert all(torch.equal(want[name], own[name]) for name in want)
    else:
        found = load_sd35(str(out), t5_length=16, components=str(toybox.folder("sd35")))
        want, own = folder.denoiser.state_dict(), found.denoiser.state_dict()
        assert all(torch.equal(want[name], own[name]) for name in want)
        assert any(key.startswith("text_encoders.clip_l.") for key in header.tensors)


def test_the_bases_own_type_is_kept_and_its_rounding_told(tmp_path):
    """The toybox lies in 16 bit; a small update drowns in it, which is said."""
    pairs = {place: (down, up * 1e-3) for place, (down, up) in odd_loras.factors("sd15", 1).items()}
    path = odd_loras.save(tmp_path / "small.safetensors", odd_loras.diffusers(pairs))
    told = Told()
    made = merge("toybox", [Strong(path, 1.0)], tmp_path / "model", told, backbone=None, dtype=None)
    assert set(made.dtypes.values()) == {"float16"}
    assert made.rounding > 0.02
    assert any("--dtype fp32" in line for line in told.warnings)
    model = load_sd15(tmp_path / "model")
    assert {value.dtype for value in stored(model, "unet").values()} == {torch.float16}


def test_another_base_is_refused(tmp_path):
    pairs = {place: (torch.cat([down, down], dim=1), up) for place, (down, up) in odd_loras.factors("sd15").items()}
    path = odd_loras.save(tmp_path / "wide.safetensors", odd_loras.diffusers(pairs))
    with pytest.raises(DataError, match="does not fit this base"):
        merge("toybox", [Strong(path, 1.0)], tmp_path / "model", Watcher(), backbone=None, dtype=None)
    pairs = odd_loras.factors("sd15")
    pairs = {(part, layer.replace("mid_block", "mid_blocks")): own for (part, layer), own in pairs.items()}
    path = odd_loras.save(tmp_path / "other.safetensors", odd_loras.diffusers(pairs))
    with pytest.raises(DataError, match="has no layer mid_blocks"):
        merge("toybox", [Strong(path, 1.0)], tmp_path / "model", Watcher(), backbone=None, dtype=None)
    assert {entry.name for entry in tmp_path.iterdir()} == {"wide.safetensors", "other.safetensors"}


@pytest.mark.parametrize("strength", [0.0, float("inf"), float("nan")])
def test_weights_that_mean_nothing(tmp_path, strength):
    path = odd_loras.save(tmp_path / "a.safetensors", odd_loras.diffusers(odd_loras.factors("sd15")))
    with pytest.raises(UsageError, match="weight"):
        merge("toybox", [Strong(path, strength)], tmp_path / "model", Watcher(), backbone=None, dtype=None)


VARIANTS = [
    ("sd15", {"name": "loha", "rank": 2, "conv_rank": 2, "where": "all_linear"}),
    ("sd15", {"name": "lokr", "rank": 2, "alpha": 1, "text_encoder_lr": 1e-3}),
    ("sd15", {"name": "lora", "rank": 2, "dora": "input", "conv_rank": 2}),
    ("sd35", {"name": "lokr", "rank": 2}),
    ("sd35", {"name": "lora", "rank": 2, "dora": "output"}),
]


@pytest.mark.parametrize(
    ("family", "settings"), VARIANTS, ids=[f"{f}-{'-'.join(map(str, s.values()))}" for f, s in VARIANTS]
)
def test_every_kind_of_update_is_merged_as_it_is_loaded(tmp_path, family, settings):
    trained = load(family)
    adapter = Adapter.read(settings)
    attachment = adapter.attach(trained, keep_base=False, draws=Draws(0))
    generator = torch.manual_seed(1)
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in attachment.state_dict().items()
    }
    (tmp_path / "adapter").mkdir()
    about = About(name="run", family=family, base="toybox", prompt="a photo of a dog")
    file = next(f for f in attachment.export(tmp_path / "adapter", state, about) if f.name == "run.safetensors")
    merge("toybox", [Strong(file, 0.8)], tmp_path / "model", Watcher(), backbone=None, dtype="fp32")
    beside = load(family)
    base = predict(beside)
    put_in(beside.pipeline(), file, 0.8, "one")
    want, found = predict(beside), predict(load(family, str(tmp_path / "model")))
    size = max(1.0, float(want.abs().max()))
    assert float((found - want).abs().max()) <= 1e-4 * size
    assert float((want - base).abs().max()) > 1e-2 * size
