"""How much memory each phase of a run needs: weights, activations and optimizer state, added up from the layout.

The activations of the denoiser (`Layout.activations`) and of the autoencoder are counted, not guessed. Attention is
taken to be computed in tiles, as every GPU kernel of today does; 1 GB is set aside for the framework itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..backbones.activations import Beside
    from ..backbones.base import Layout

OVERHEAD = 10**9
"""Context, workspaces and fragmentation of the framework, in bytes."""
ENCODER_BYTES_A_PIXEL = 128 * 4 * 5
"""Encoder: at its peak five float32 tensors of 128 channels at full size are alive (counted)."""
DECODER_BYTES_A_PIXEL = 256 * 4 * 4
"""Decoder: three such tensors of 256 channels (counted), and one more for workspaces."""


@dataclass(frozen=True, slots=True)
class Load:
    """What of a recipe memory depends on."""

    layout: Layout
    text_components: tuple[str, ...]
    examples: int
    """Pictures in a micro-batch, all roles together."""
    area: int
    """Pixels of the largest bucket."""
    sample_area: int
    """Pixels of a sample; 0 draws none."""
    trainable: int
    """Trained parameters."""
    state: int
    """Bytes of what training adds to the base: values of adapters, gradients, what the optimizer remembers."""
    layers: frozenset[str] | None
    """Linear layers of the denoiser that train; None where all its weights do."""
    ema: bool
    checkpointing: bool
    trained_text: tuple[str, ...]
    """Text encoders that train, by component."""
    teacher: bool
    """Whether a step also asks the untouched base."""
    cached: bool
    """Whether latents come from the cache."""
    generates: bool
    """Whether class pictures are drawn first."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Bytes of a weight by component, where an adapter chooses that."""
    beside: Mapping[int, Beside] = field(default_factory=dict)
    """By bytes of a frozen weight, what layers that train keep beside their inputs."""
    kept: int = 0
    """Parameters that train in place, of which a task with a teacher keeps the base's values, too."""

    @property
    def trains_text(self) -> bool:
        return bool(self.trained_text)


@dataclass(frozen=True, slots=True)
class Phase:
    """Memory of one phase, in bytes by component."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Memory:
    """Every phase's memory on one kind of device."""

    itemsize: int
    """Bytes of one frozen weight: 2 (fp16, bf16) or 4 (fp32)."""
    phases: Sequence[Phase]

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)


def memory(load: Load, itemsize: int, *, shared: bool) -> Memory:
    """Estimate every phase. Text encoders, VAE and denoiser are in memory while they are used.

    Args:
        load: the run.
        itemsize: bytes of one frozen weight: 2 or 4.
        shared: whether the device's memory is the machine's own (CPU, Apple), where the VAE waits for the samples.
    """
    before, everything = weights(load, itemsize, {}), weights(load, itemsize, load.held)
    vae = {"VAE": before["VAE"]}
    text, plain = {"text encoder": before["text encoder"]}, {"denoiser": before["denoiser"]}
    state = {"gradients, optimizer" if load.held else "adapter, gradients, optimizer": load.state}
    if copies := copied(load, itemsize):
        state["16-bit copies while computing"] = copies
    if load.teacher and load.kept:
        state["the base's values"] = load.kept * itemsize
    if load.ema:
        state["average of the weights"] = load.trainable * 4

    def phase(name: str, held: Mapping[str, int], work: float, what: str = "activations") -> Phase:
        return Phase(name, {**held, what: int(work), "framework": OVERHEAD})

    held = {key: everything[key] for key in ("denoiser", *(["text encoder"] if load.trains_text else []))}
    if not load.cached or (shared and load.sample_area):
        held |= vae
    phases = [
        *([] if load.trains_text else [phase("reading captions", text, 0)]),
        phase("encoding", vae, load.area * ENCODER_BYTES_A_PIXEL),
        phase(
            "training",
            {**held, **state},
            training_activations(load, itemsize),
            f"activations of {load.examples} at once",
        ),
    ]
    if load.generates:
        phases.insert(0, phase("class pictures", {**plain, **vae}, drawing(load, load.area, itemsize)))
    if load.sample_area:
        phases.append(phase("sampling", {**held, **vae, **state}, drawing(load, load.sample_area, itemsize)))
    return Memory(itemsize, phases)


def weights(load: Load, itemsize: int, held: Mapping[str, int]) -> dict[str, int]:
    """Bytes of the components; the VAE is always float32."""
    sizes = {name: count * held.get(name, itemsize) for name, count in load.layout.parameters.items()}
    vae = load.layout.parameters["vae"] * 4
    text = sum(sizes.get(name, 0) for name in load.text_components)  # a base may do without one
    denoiser = sum(size for name, size in sizes.items() if name not in (*load.text_components, "vae"))
    return {"denoiser": denoiser, "VAE": vae, "text encoder": text}


def copied(load: Load, itemsize: int) -> int:
    """Bytes of the narrow copies that a forward pass makes of weights that are kept wider, and that backward needs."""
    return sum(load.layout.parameters[name] * itemsize for name, held in load.held.items() if held > itemsize)


def training_activations(load: Load, itemsize: int) -> float:
    """Peak of one micro-batch, in bytes."""
    denoiser = load.layout.activations
    peak = denoiser.training(
        load.area, itemsize, load.layers, checkpointing=load.checkpointing, beside=load.beside.get(itemsize, {})
    )
    if load.teacher:
        peak += denoiser.forward(load.area, itemsize)
    peak *= load.examples
    if load.trains_text:
        peak += text_activations(load)
    return peak if load.cached else max(peak, load.examples * load.area * ENCODER_BYTES_A_PIXEL)


def drawing(load: Load, area: int, itemsize: int) -> float:
    """Peak of drawing one picture of `area` pixels: two guided predictions, or decoding in float32."""
    return max(2 * load.layout.activations.forward(area, itemsize), area * DECODER_BYTES_A_PIXEL)


def text_activations(load: Load) -> int:
    """Saved activations of the text encoders that train: each linear layer's input, twice for what lies between, in
    fp32. One that does not train, such as T5, saves nothing.
    """
    layout = load.layout
    inputs = {name: sum(width for width, _ in layout.linears[name].values()) for name in load.trained_text}
    values = sum(layout.text_tokens[name] * width for name, width in inputs.items())
    return load.examples * values * 4 * 2
