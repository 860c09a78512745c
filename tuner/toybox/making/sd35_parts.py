"""The shapes of the toybox's Stable Diffusion 3.5: those of the real one, a hundred times smaller."""

from __future__ import annotations

from typing import Any

from .. import pieces, words
from .autoencoder import CONFIG as PLAIN_VAE

DEPTH = 3
"""The one dial of the transformer (Esser et al. 2024, sec. 4): it is 64 x DEPTH wide and has DEPTH heads."""
CLIP_LENGTH = 40
"""Tokens that both CLIPs read; the longest caption of the world has 31."""
T5_LENGTH = 32
"""Tokens that T5 reads in most steps of the training, and in the preset of rehearsals."""
L_WIDTH, G_WIDTH = 64, 96
"""Of the two CLIPs; T5 is as wide as both together, so that nothing is padded."""
SHIFT = 4.0
"""Of the noise levels, in training and sampling. The paper's sqrt(m / n) would say less than 1 for so few latents, but
it speaks of photographs. Here large flat areas say the same in many latents, which is visible through more noise: what
a picture shows is decided above t = 0.8 (measured by how much the caption of another class raises the loss there)."""

VAE: dict[str, Any] = {
    **PLAIN_VAE,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""Factor 4 where the real one has 8: 64 px are 16 x 16 latents, so 64 tokens in patches of 2 x 2."""

TRANSFORMER: dict[str, Any] = {
    "sample_size": 64,
    "patch_size": 2,
    "in_channels": VAE["latent_channels"],
    "out_channels": VAE["latent_channels"],
    "num_layers": DEPTH,
    "attention_head_dim": 64,
    "num_attention_heads": DEPTH,
    "joint_attention_dim": L_WIDTH + G_WIDTH,
    "caption_projection_dim": 64 * DEPTH,
    "pooled_projection_dim": L_WIDTH + G_WIDTH,
    "pos_embed_max_size": 16,
    "dual_attention_layers": [0, 1],
    "qk_norm": "rms_norm",
}
"""Pictures have up to 128 px a side, 16 patches. `sample_size` sets how far apart neighbouring places are in the table
of positions, 32 / 16 = 2 here. With the 16 of the pictures in training it would be 1/2, and eight places of which no
more than three are distinct; the price is that a plain pipeline has to be told `height=64, width=64`."""

T5: dict[str, Any] = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "vocab_size": len(pieces.vocabulary()),
    "d_model": L_WIDTH + G_WIDTH,
    "d_kv": 24,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "is_encoder_decoder": False,
    "tie_word_embeddings": False,
    "use_cache": False,
    "eos_token_id": 1,
    "pad_token_id": 0,
}

SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.42.1",
    "num_train_timesteps": 1000,
    "shift": SHIFT,
    "use_dynamic_shifting": False,
}


def clip(width: int, act: str) -> dict[str, Any]:
    """Configuration of a CLIPTextModelWithProjection."""
    size = len(words.vocabulary(words.merges()))
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": size,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CLIP_LENGTH,
        "hidden_act": act,
        "layer_norm_eps": 1e-5,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }


CLIPS: dict[str, dict[str, Any]] = {
    "text_encoder": clip(L_WIDTH, "quick_gelu"),
    "text_encoder_2": clip(G_WIDTH, "gelu"),
}
PADS = {"text_encoder": words.END, "text_encoder_2": "!"}
"""What fills a caption up, as in the real tokenizers."""
