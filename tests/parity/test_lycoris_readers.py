"""What other tools compute of a saved LoHa or LoKr is what was trained; peft's own layers compute the same."""

from __future__ import annotations

import pytest
import torch
from models import load_sd15
from safetensors.torch import load_file
from tiny_sd35 import load_sd35
from trained_lycoris import READERS, TrainedLycoris, apart, product, read_by, reader_keys

from tuner.adapters.injected import ADAPTER
from tuner.adapters.lokr import LoKr, two_factors
from tuner.draws import Draws
from tuner.formats.about import About
from tuner.formats.container import read_header
from tuner.formats.find import kind_of
from tuner.formats.load import load_adapter
from tuner.formats.lora import on_disk
from tuner.formats.prediction import predict
from tuner.formats.unload import unload_adapter

CASES = {
    "loha": ("sd15", {"name": "loha", "rank": 3, "alpha": 1.5, "text_encoder_lr": 1e-4}),
    "loha on sd35": ("sd35", {"name": "loha", "rank": 2, "where": "attention_mlp", "text_encoder_lr": 1e-4}),
    "lokr of a low rank": ("sd15", {"name": "lokr", "rank": 2, "alpha": 1, "text_encoder_lr": 1e-4}),
    "lokr of whole matrices": ("sd15", {"name": "lokr", "rank": 999, "alpha": 300, "factor": 4}),
    "lokr of two low ranks": ("sd15", {"name": "lokr", "rank": 1, "alpha": 3, "decompose_both": True}),
    "loha of convolutions": ("sd15", {"name": "loha", "rank": 2, "alpha": 1, "conv_rank": 3, "conv_alpha": 6}),
    "lokr of convolutions": ("sd15", {"name": "lokr", "rank": 3, "conv_rank": 2, "alpha": 1, "factor": 4}),
    "lokr on sd35": ("sd35", {"name": "lokr", "rank": 2, "alpha": 1, "where": "attention_mlp"}),
}


@pytest.fixture(scope="module")
def bases(sd35_folder):
    return {"sd15": load_sd15("toybox"), "sd35": load_sd35(sd35_folder)}


@pytest.fixture(scope="module")
def plain(bases):
    return {family: predict(model) for family, model in bases.items()}


@pytest.fixture(scope="module")
def cases(bases, tmp_path_factory):
    made: dict[str, TrainedLycoris] = {}

    def case(name: str) -> TrainedLycoris:
        if name not in made:
            family, keys = CASES[name]
            about = About("dog", family=family, base="toybox", prompt="a dog")
            made[name] = TrainedLycoris(bases[family], tmp_path_factory.mktemp("run"), about, **keys)
        return made[name]

    return case


@pytest.mark.parametrize("case", CASES)
def test_every_reader_predicts_what_was_trained(bases, plain, cases, case):
    trained, family = cases(case), CASES[case][0]
    want = trained.predict()
    assert (want - plain[family]).abs().max() > 1e-3
    for reader in READERS:
        model = apart(bases[family])
        assert not read_by(reader, load_file(trained.file), model, reader_keys(model))
        assert (predict(model) - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max())), reader


@pytest.mark.parametrize("case", CASES)
def test_load_adapter_predicts_what_was_trained_and_leaves_nothing(bases, plain, cases, case):
    trained, family = cases(case), CASES[case][0]
    model = apart(bases[family])
    load_adapter(model.pipeline(), trained.file, name="one")
    want = trained.predict()
    assert (predict(model) - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))
    unload_adapter(model.pipeline(), "one")
    assert torch.equal(predict(model), plain[family])
    assert not [name for name, _ in model.denoiser.named_modules() if "base_layer" in name]


@pytest.mark.parametrize("case", CASES)
def test_a_merged_file_is_the_loaded_one(bases, cases, case):
    """`FileKind.deltas` is what merging adds."""
    trained, model = cases(case), apart(bases[CASES[case][0]])
    header = read_header(trained.file)
    parts = {model.denoiser_name: model.denoiser, **model.text_encoders}
    for delta in kind_of(header).deltas(trained.file, header):
        named = {on_disk(delta.component, name): part for name, part in parts[delta.component].named_modules()}
        weight = named[delta.layer].weight
        with torch.no_grad():
            weight += delta.added(weight)
        with pytest.raises(ValueError, match="does not fit"):
            delta.added(weight[:-1])
    want = trained.predict()
    assert (predict(model) - want).abs().max() <= 1e-4 * max(1.0, float(want.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_the_training_layers_compute_the_formula(cases, case):
    trained = cases(case)
    for component, name, layer in trained.attachment.injected():
        own = {
            leaf: p[ADAPTER].detach().double().numpy()
            for leaf in layer.adapter_layer_names
            if ADAPTER in (p := getattr(layer, leaf))
        }
        assert {f"{component}.{name}.{leaf}" for leaf in own} <= trained.state.keys()
        scale = trained.adapter.scale_of(tuple(layer.get_base_layer().weight.shape))
        found = layer.get_delta_weight(ADAPTER)
        want = torch.from_numpy(scale * product(own)).float().reshape(found.shape)
        assert torch.allclose(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_peft_s_own_configuration_gives_the_same_layer(name):
    """The layer that peft makes by itself, with the same factors, puts out the same, bit for bit."""
    from peft import LoHaConfig, LoKrConfig, inject_adapter_in_model
    from torch import nn

    from tuner.adapters import Adapter
    from tuner.formats.peft_layers import fill

    adapter = Adapter.read({"name": name, "rank": 2, "alpha": 3})
    kind = LoHaConfig if name == "loha" else LoKrConfig
    config = {"target_modules": ["0"], "init_weights": False}
    theirs, ours = (nn.Sequential(nn.Linear(30, 24)) for _ in range(2))
    ours.load_state_dict(theirs.state_dict())
    theirs = inject_adapter_in_model(kind(r=2, alpha=3, **config), theirs, ADAPTER)
    ours = inject_adapter_in_model(kind(r=1, alpha=1, **config), ours, ADAPTER)
    layer = theirs[0]
    factors = {
        leaf: p[ADAPTER].data.clone() for leaf in layer.adapter_layer_names if ADAPTER in (p := getattr(layer, leaf))
    }
    shapes = {leaf: tuple(factor.shape) for leaf, factor in factors.items()}
    assert shapes == adapter.shapes((24, 30)), "peft takes the sides apart as we do"
    fill(ours[0], ADAPTER, factors, adapter.scale_of((24, 30)))
    x = torch.from_numpy(Draws(0).normal((5, 30), "x"))
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))


@pytest.mark.parametrize("largest", [None, 2, 4, 6, 16, 64])
def test_sides_come_apart_as_in_peft(largest):
    from peft.tuners.lokr.layer import factorization

    for size in (1, 2, 7, 40, 127, 250, 320, 360, 640, 768, 1280, 1536, 2432, 10240):
        first, second = two_factors(size, largest)
        assert (first, second) == tuple(sorted(factorization(size, largest or -1)))
        assert first * second == size


def test_a_matrix_is_whole_where_its_rank_would_not_make_it_smaller():
    for rank in (1, 2, 5, 6, 12):
        shapes = LoKr(rank=rank, decompose_both=True).shapes((48, 30))  # 6 x 5 and 8 x 6
        assert ("lokr_w1" in shapes) == (rank >= 3)
        assert ("lokr_w2" in shapes) == (rank >= 4)


@pytest.mark.parametrize("case", CASES)
def test_the_plan_and_the_summary_count_what_trains(cases, case):
    trained = cases(case)
    backbone = trained.model.backbone
    counts = trained.adapter.count(backbone, backbone.layout())
    assert sum(count.parameters for count in counts) == sum(tensor.numel() for tensor in trained.state.values())
    assert len(trained.attachment.summary()) == len(counts)
