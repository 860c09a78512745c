"""Draw a picture with a LoRA that tuner made, in plain diffusers: no import of tuner is needed for a base of yours.

python examples/load_in_diffusers.py runs/dog/adapter/pytorch_lora_weights.safetensors --prompt "a photo of sks dog"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("adapter", type=Path, help="either .safetensors file of a run's adapter/ folder")
    options.add_argument(
        "--base", default="stable-diffusion-v1-5/stable-diffusion-v1-5", help="Hub id, folder, or toybox"
    )
    options.add_argument("--prompt", default="a photo of sks dog")
    options.add_argument("--strength", type=float, default=1.0, help="0 is the base alone, 1 what was trained")
    options.add_argument("--steps", type=int, default=25)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("picture.png"))
    given = options.parse_args()

    base = given.base
    if base == "toybox":  # the small model that ships with tuner, to try this without a download
        from tuner import toybox

        base = str(toybox.folder("sd15"))

    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    pipe = StableDiffusionPipeline.from_pretrained(base, torch_dtype=dtype, safety_checker=None).to(device)
    pipe.load_lora_weights(str(given.adapter.parent), weight_name=given.adapter.name, adapter_name="learned")
    pipe.set_adapters("learned", given.strength)

    generator = torch.Generator("cpu").manual_seed(given.seed)
    image = pipe(given.prompt, num_inference_steps=given.steps, generator=generator).images[0]
    image.save(given.out)
    print(f"drew {given.out}")


if __name__ == "__main__":
    main()
