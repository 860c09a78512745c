"""The sequence of a hypernetwork: its members, their numbers, and what a recipe may ask for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tuner.adapters.hypernetwork import Hypernetwork
from tuner.draws import Draws
from tuner.formats.hypernetwork import from_words, to_words
from tuner.nn import hypernetwork as networks
from tuner.nn.hypernetwork_structure import CLASSES, Structure


@st.composite
def structures(draw) -> Structure:
    inner = draw(st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]), max_size=3))
    return Structure(
        layers=(1.0, *inner, 1.0),
        activation=draw(st.sampled_from(["linear", *CLASSES])),
        activate_output=draw(st.booleans()),
        layer_norm=draw(st.booleans()),
        dropout=tuple(draw(st.sampled_from([0.0, 0.3])) for _ in range(len(inner) + 1)),
    )


@given(structures(), st.sampled_from([8, 10, 48]))
@settings(max_examples=60, deadline=None)
def test_the_names_and_shapes_are_those_of_the_module(structure, width):
    network = networks.Network(structure, width)
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert structure.shapes(width) == found
    assert list(structure.shapes(width)) == list(found), "ComfyUI takes them in order"
    pair = networks.Hypernetwork(structure, [width])
    assert structure.parameters(width) == sum(p.numel() for p in pair.parameters())


@given(structures())
@settings(max_examples=60, deadline=None)
def test_words_there_and_back(structure):
    assert from_words(to_words(structure, "Normal")) == structure


A1111 = {
    (): ["linear.0", "linear.1"],
    ("relu",): ["linear.0", "linear.2"],
    ("relu", "norm"): ["linear.0", "linear.2", "linear.3", "linear.4"],
    ("relu", "norm", "dropout"): ["linear.0", "linear.2", "linear.4", "linear.5"],
    ("relu", "output"): ["linear.0", "linear.2"],
    ("dropout",): ["linear.0", "linear.2"],
}
"""Options -> the members of [1, 2, 1] that have weights, as counted by hand in A1111's `HypernetworkModule`."""


@pytest.mark.parametrize("options", A1111, ids=" ".join)
def test_members_are_counted_as_a1111_counts_them(options):
    adapter = Hypernetwork(
        activation="relu" if "relu" in options else "linear",
        layer_norm="norm" in options,
        dropout=0.3 if "dropout" in options else 0.0,  # type: ignore[arg-type]
        activate_output="output" in options,
        init="normal",
    )
    names = adapter.structure.shapes(16)
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in names)) == A1111[options]


def test_dropout_is_given_once_or_for_each_inner_layer():
    assert Hypernetwork(layer_structure=(1, 2, 2, 1), dropout=0.3).structure.dropout == (0.3, 0.3, 0.0)  # type: ignore[arg-type]
    assert Hypernetwork(layer_structure=(1, 2, 2, 1), dropout=(0.1, 0)).structure.dropout == (0.1, 0.0, 0.0)


REFUSED = {
    "starts and ends with 1": {"layer_structure": [2, 1]},
    "one share for each": {"layer_structure": [1, 2, 1], "dropout": [0.1, 0.2]},
    "no inner layer to drop": {"layer_structure": [1, 1], "dropout": 0.3},
    "nothing to activate": {"activate_output": True},
    "no inner layer to activate": {"layer_structure": [1, 1], "activation": "relu"},
    "stuck at zero": {"activation": "relu", "activate_output": True},
    "glu halves its width": {"activation": "glu"},
    "no size": {"sizes": []},
    "a word for sizes": {"sizes": "cross"},
    "a start that is none": {"init": "Normal"},
    "a size that is none": {"layer_structure": [1, 0, 1]},
    "a typo": {"layer_stucture": [1, 2, 1]},
}


@pytest.mark.parametrize("keys", REFUSED.values(), ids=REFUSED)
def test_what_means_nothing_is_refused(keys):
    with pytest.raises(ValidationError):
        Hypernetwork.model_validate(keys)


def spread(weights):
    return float(weights.std(unbiased=False)), float(weights.abs().max())


@pytest.mark.parametrize(
    ("init", "theirs"),
    [
        ("normal", lambda w: torch.nn.init.normal_(w, std=0.01)),
        ("xavier_uniform", torch.nn.init.xavier_uniform_),
        ("xavier_normal", torch.nn.init.xavier_normal_),
        ("kaiming_uniform", lambda w: torch.nn.init.kaiming_uniform_(w, nonlinearity="relu")),
        ("kaiming_normal", lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="leaky_relu")),
    ],
    ids=["normal", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"],
)
def test_starts_are_spread_as_torch_spreads_them(init, theirs):
    """A1111 calls torch.nn.init; ours draw by name, with the same distribution."""
    network = networks.Hypernetwork(Structure(), [192])
    network.initialise(init, Draws(0))
    for name, weight in network.weights().items():
        if name.endswith("bias"):
            assert not weight.any()
            continue
        with torch.random.fork_rng():
            torch.manual_seed(0)
            want = theirs(torch.empty_like(weight))
        std, largest = spread(weight.detach())
        assert std == pytest.approx(spread(want)[0], rel=0.02)
        if init.endswith("uniform"):
            assert largest == pytest.approx(spread(want)[1], rel=0.01)


def test_a_norm_starts_small_whatever_the_start():
    network = networks.Hypernetwork(Structure(layer_norm=True), [192])
    network.initialise("kaiming_normal", Draws(0))
    norm = network.weights()["192.k.linear.1.weight"].detach()
    assert float(norm.std()) == pytest.approx(0.01, rel=0.2)
    assert abs(float(norm.mean())) < 0.003


@pytest.mark.parametrize("layer_norm", [False, True])
def test_zero_changes_nothing_at_first_and_can_leave(layer_norm):
    network = networks.Hypernetwork(Structure(activation="relu", layer_norm=layer_norm), [16])
    network.initialise("zero", Draws(0))
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    for side in "kv":
        assert torch.equal(network(x, side), x)
        network(x, side).square().sum().backward()
    moved = [name for name, weight in network.weights().items() if weight.grad is not None and weight.grad.any()]
    assert moved


def test_one_more_width_moves_no_other_start():
    alone, both = networks.Hypernetwork(Structure(), [16]), networks.Hypernetwork(Structure(), [8, 16])
    for network in (alone, both):
        network.initialise("normal", Draws(3))
    assert all(torch.equal(value, both.weights()[name]) for name, value in alone.weights().items())
