"""Draw a picture with a LoRA that tuner made, in plain diffusers: no import of tuner is needed for a base of yours.

python examples/load_in_diffusers.py runs/dog/adapter/pytorch_lora_weights.safetensors --prompt "a photo of sks dog"

For Stable Diffusion 1.5, 3.5 and 3: the file says which. A card (README.md) beside it has the same, made for its run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

BASES = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd35": "stabilityai/stable-diffusion-3.5-medium"}
HALVES = {"sd15": torch.float16, "sd35": torch.bfloat16}
USUAL = {"sd15": (25, 7.5), "sd35": (28, 4.5)}  # steps and guidance; a turbo takes --steps 4 --guidance 0


def read(adapter: Path) -> tuple[str, dict[str, str]]:
    """Which family a file is for, and what its header says."""
    with safe_open(adapter, framework="pt") as file:
        header, keys = file.metadata() or {}, list(file.keys())
    if any(key.startswith("lora_unet_joint_blocks") for key in keys):
        raise SystemExit(f"diffusers passes over these keys; first: tuner export {adapter} --to diffusers")
    return "sd35" if any(key.startswith("transformer.") for key in keys) else "sd15", header


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("adapter", type=Path, help="either .safetensors file of a run's adapter/ folder")
    options.add_argument("--base", help="Hub id, folder, or toybox; default: Stable Diffusion 1.5 or 3.5 medium")
    options.add_argument("--prompt", default="a photo of sks dog")
    options.add_argument("--strength", type=float, default=1.0, help="0 is the base alone, 1 what was trained")
    options.add_argument("--steps", type=int, help="default: 25, or 28 on SD3.5")
    options.add_argument("--guidance", type=float, help="default: 7.5, or 4.5 on SD3.5")
    options.add_argument("--size", type=int, help="side in pixels; default: the base's own")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("picture.png"))
    given = options.parse_args()

    family, header = read(given.adapter)
    base = given.base or BASES[family]
    if base == "toybox":  # the small model that ships with tuner, to try this without a download
        from tuner import toybox

        base, given.size = str(toybox.folder(family)), given.size or 64

    loading: dict[str, Any] = {}
    call: dict[str, Any] = {}
    if family == "sd15":
        loading = {"safety_checker": None}
    else:  # as in training: how many tokens T5 reads, or how many zeros stand in its place
        if header.get("tuner_t5") == "False":
            loading = {"text_encoder_3": None, "tokenizer_3": None}
        call = {"max_sequence_length": int(header.get("tuner_t5_length", 256))}
    steps, guidance = USUAL[family]
    call["num_inference_steps"] = steps if given.steps is None else given.steps
    call["guidance_scale"] = guidance if given.guidance is None else given.guidance
    if given.size:
        call |= {"height": given.size, "width": given.size}

    device, dtype = ("cuda", HALVES[family]) if torch.cuda.is_available() else ("cpu", torch.float32)
    pipe = DiffusionPipeline.from_pretrained(base, torch_dtype=dtype, **loading).to(device)
    pipe.load_lora_weights(str(given.adapter.parent), weight_name=given.adapter.name, adapter_name="learned")
    pipe.set_adapters("learned", given.strength)

    generator = torch.Generator("cpu").manual_seed(given.seed)
    image = pipe(given.prompt, generator=generator, **call).images[0]
    image.save(given.out)
    print(f"drew {given.out}")


if __name__ == "__main__":
    main()
