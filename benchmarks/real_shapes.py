"""A few training steps of SD3.5 at its true shapes, with seeded random weights: peak memory against the plan, and time.

    python benchmarks/real_shapes.py --model medium --steps 5 --lora-rank 16
    python benchmarks/real_shapes.py --model large --checkpointing

Nothing is downloaded: the transformer has the published configuration (tuner/backbones/data/sd35) and random weights in
bfloat16, the texts are random embeddings of the true length. The steps are tuner's own loop: a LoRA on the attention in
float32, autocast, AdamW, clip and the largest attention logit only where --attention-logit asks for it. The file
benchmarks/results/<model>-<px>px-lora<rank>[-checkpointed]-<gpu>.json holds what was planned and what was measured, and
names the machine. It needs CUDA; without it, it says so and ends with status 2.

On a machine without a network, carry the wheels that it lacks: here `pip download --no-deps --only-binary=:all:
--python-version 3.12 --implementation cp --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 -d .whl
diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 pydantic pydantic-core typing-inspection annotated-types
ruamel.yaml` and whatever else its imports name (constraints.txt has the versions); there `pip install --no-index
--no-deps --target /tmp/site .whl/*.whl` and `PYTHONPATH=/tmp/site:.`. torch itself is taken as it is there.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from tuner.backbones import DiffusionModel
    from tuner.types import Batch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "diffusers", "transformers", "peft")
NAMES = {"medium": "stabilityai/stable-diffusion-3.5-medium", "large": "stabilityai/stable-diffusion-3.5-large"}
T5_LENGTH = 256


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["medium", "large"], default="medium")
    parser.add_argument("--steps", type=int, default=5, help="timed, after one that warms up")
    parser.add_argument("--lora-rank", type=int, default=16)
    parser.add_argument("--px", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument("--attention-logit", action="store_true", help="measure the largest attention logit, too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(argv)
    import torch

    if not torch.cuda.is_available():
        print("real_shapes: this machine has no CUDA device; nothing was measured", file=sys.stderr)
        return 2
    from tuner.backbones.mmdit_layout import configs

    result = measure(
        configs(asked.model),
        torch.device("cuda"),
        rank=asked.lora_rank,
        steps=asked.steps,
        px=asked.px,
        batch=asked.batch,
        checkpointing=asked.checkpointing,
        attention_logit=asked.attention_logit,
    )
    print(write({"model": NAMES[asked.model], **result}, asked.out, asked.model))
    return 0


def measure(
    configs: Mapping[str, Mapping[str, Any]],
    device: torch.device,
    *,
    rank: int,
    steps: int,
    px: int,
    batch: int = 1,
    checkpointing: bool = False,
    attention_logit: bool = False,
) -> dict[str, Any]:
    """One warm-up step and `steps` timed ones on a transformer of this configuration; bytes and seconds."""
    import torch

    from tuner.adapters.lora import LoRA
    from tuner.draws import Draws
    from tuner.loop import accumulate, update
    from tuner.objectives.rectified_flow import RectifiedFlow
    from tuner.processes import Processes
    from tuner.sections import Train
    from tuner.student import Student
    from tuner.tasks.finetune import Finetune
    from tuner.training import Training

    model = random_model(configs, device)
    if checkpointing:
        model.checkpoint_gradients()
    draws, task = Draws(0), Finetune()
    attachment = LoRA(rank=rank).attach(model, keep_base=False, draws=draws)
    attachment.train(on=True)
    objective = RectifiedFlow().bind(configs["scheduler"], device)
    student = Student(model, [attachment], objective, torch.bfloat16)
    settings = Train(steps=steps + 1, batch=batch)
    training = Training.of([attachment], settings, device, (), scaled=False)
    example = random_batch(configs, device, px, batch)
    gauge = watch(model) if attention_logit else None
    seconds, logits = [], []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for step in range(steps + 1):
        wait(device)
        began = time.perf_counter()
        if gauge:
            gauge.begin()
        sums = accumulate(student, task, training, [example], step=step, draws=draws, processes=Processes())
        update(training, sums, step=step, max_grad_norm=settings.max_grad_norm)
        wait(device)
        seconds.append(time.perf_counter() - began)
        if gauge and (found := gauge.end()) is not None:
            logits.append(found.item())
    trainable = sum(p.numel() for p in training.active())
    planned = plan(configs, px, batch, trainable, checkpointing=checkpointing)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    in_all = sum(planned.values())
    return {
        "machine": machine(device),
        "px": px, "batch": batch, "lora_rank": rank, "checkpointing": checkpointing, "precision": "bf16",
        "trained_parameters": trainable,
        "finite": bool(training.guard.skipped == 0),
        "seconds_of_the_first_step": round(seconds[0], 4),
        "seconds_a_step": [round(value, 4) for value in seconds[1:]],
        "median_seconds_a_step": round(statistics.median(seconds[1:]), 4),
        "planned_bytes": planned,
        "planned_bytes_in_all": in_all,
        "peak_bytes": peak,
        "reserved_bytes": torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        "planned_over_peak": round(in_all / peak, 4) if peak else None,
        "attention_logit_max": logits,
    }  # fmt: skip


def watch(model: DiffusionModel) -> Any:
    from tuner.attention_logits import LargestLogit

    return LargestLogit(model.denoiser)


def plan(
    configs: Mapping[str, Mapping[str, Any]], px: int, batch: int, trainable: int, *, checkpointing: bool
) -> dict[str, int]:
    """What `tuner plan` says of the training phase in 16 bit, without what it sets aside for the framework."""
    from tuner.backbones import Backbone
    from tuner.backbones.mmdit_layout import layout as of
    from tuner.planning.memory import Load, memory

    part = Backbone.read({"name": "sd35", "model": NAMES["medium"]})
    layout = of(configs, t5_length=T5_LENGTH)
    names = part.matching("attention", layout.linears["transformer"])["attention"]
    load = Load(
        layout=layout, text_components=tuple(part.text_components), examples=batch, area=px * px, sample_area=0,
        trainable=trainable, state=16 * trainable, layers=frozenset(names), ema=False, checkpointing=checkpointing,
        trained_text=(), teacher=False, cached=True, generates=False,
    )  # fmt: skip
    (phase,) = (phase for phase in memory(load, 2, shared=False).phases if phase.name == "training")
    return {name: size for name, size in phase.parts.items() if name != "framework"}


def random_model(configs: Mapping[str, Mapping[str, Any]], device: torch.device) -> DiffusionModel:
    """The transformer in bfloat16 with weights from seed 0; what a step does not use has no storage."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from tuner.backbones import Backbone
    from tuner.backbones.sd35_model import SD35Model

    with torch.device("meta"):
        modules: dict[str, nn.Module] = {"transformer": SD3Transformer2DModel.from_config(dict(configs["transformer"]))}
        modules["vae"] = AutoencoderKL.from_config(dict(configs["vae"]))
        for name in ("text_encoder", "text_encoder_2"):
            modules[name] = CLIPTextModelWithProjection(CLIPTextConfig(**configs[name]))
    transformer = modules["transformer"]
    for tensor in [*transformer.parameters(), *transformer.buffers()]:
        tensor.data = tensor.data.to(torch.bfloat16)
    transformer.to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*transformer.named_parameters(), *transformer.named_buffers()]:
            if tensor.ndim > 1:
                fan_in = tensor[0].numel() if name.endswith("weight") else 1
                tensor.normal_(std=fan_in**-0.5, generator=generator)
            else:
                tensor.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    backbone = Backbone.read({"name": "sd35", "model": NAMES["medium"], "t5_length": T5_LENGTH})
    return SD35Model(backbone, modules, {}, configs["scheduler"], lambda name: name)  # type: ignore[arg-type]


def random_batch(configs: Mapping[str, Mapping[str, Any]], device: torch.device, px: int, batch: int) -> Batch:
    """Latents, draws and texts from seed 1."""
    import torch

    from tuner.backbones.mmdit_layout import clip_length
    from tuner.objectives.rectified_flow import RectifiedFlow
    from tuner.types import Batch, Cond, Role

    config, generator = configs["transformer"], torch.Generator().manual_seed(1)
    side = px // 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    shapes = {"latent": (config["in_channels"], side, side), "channel": (config["in_channels"], 1, 1), "scalar": ()}

    def drawn(kind: str, *shape: int) -> torch.Tensor:
        return (torch.randn if kind == "normal" else torch.rand)(batch, *shape, generator=generator)

    draws = {name: drawn(draw.kind, *shapes[draw.shape]) for name, draw in RectifiedFlow().needs().items()}
    text = Cond({
        "text": drawn("normal", clip_length(configs) + T5_LENGTH, config["joint_attention_dim"]),
        "pooled": drawn("normal", config["pooled_projection_dim"]),
    })  # fmt: skip
    weight = torch.full((batch,), 1 / batch)
    return Batch(drawn("normal", *shapes["latent"]), draws, text, weight, (Role("images"),)).to(device)


def wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    import torch

    name, total = platform.processor() or platform.machine(), None
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        name, total = found.name, found.total_memory
    return {
        "device": name,
        "device_bytes": total,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def write(result: Mapping[str, Any], folder: Path, model: str) -> Path:
    device = "-".join(result["machine"]["device"].lower().split())
    again = "-checkpointed" if result["checkpointing"] else ""
    file = folder / f"{model}-{result['px']}px-lora{result['lora_rank']}{again}-{device}.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return file


if __name__ == "__main__":
    raise SystemExit(main())
