"""tuner and diffusers' own DreamBooth-LoRA script on the same base, photos and terms: seconds, and what was learned."""
