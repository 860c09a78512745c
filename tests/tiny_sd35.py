"""A random SD3.5-shaped model of a megabyte in diffusers' folder format: two CLIPs, T5, an attention `attn2` in part."""

from __future__ import annotations

import shutil
from pathlib import Path

TRANSFORMER = {
    "sample_size": 8, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 3,
    "attention_head_dim": 8, "num_attention_heads": 3, "joint_attention_dim": 48, "caption_projection_dim": 24,
    "pooled_projection_dim": 40, "pos_embed_max_size": 16, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm",
}  # fmt: skip

WORDS = ("a", "photo", "of", "dog", "cat", "red", "blue", "cup", "on", "grass")
LETTERS = "abcdefghijklmnopqrstuvwxyz.,0123456789"


def load_sd35(model: str | Path, **keys: object):
    """The model that a recipe's backbone section describes, in float32 on the CPU."""
    import torch

    from tuner.backbones import Backbone

    backbone = Backbone.read({"name": "sd35", "model": str(model), **keys})
    return backbone.load(device=torch.device("cpu"), dtype=torch.float32)


def write_sd35(folder: Path, **transformer: object) -> Path:
    """Write the model; `transformer` overrides its configuration. Weights depend on nothing but these."""
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel

    from tuner import toybox

    words = toybox.folder("sd15") / "tokenizer"
    clip_words = CLIPTokenizer.from_pretrained(words)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = SD3Transformer2DModel(**{**TRANSFORMER, **transformer})
        vae = AutoencoderKL(
            block_out_channels=(4, 8, 8, 8), norm_num_groups=2, latent_channels=16, layers_per_block=1,
            scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        first, second = (
            CLIPTextModelWithProjection(
                CLIPTextConfig(
                    vocab_size=len(clip_words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
                    num_attention_heads=2, projection_dim=width, max_position_embeddings=77, hidden_act=act,
                    bos_token_id=0, eos_token_id=2, pad_token_id=1,
                )
            )
            for width, act in ((16, "quick_gelu"), (24, "gelu"))
        )  # fmt: skip
        tokens = t5_tokenizer()
        third = T5EncoderModel(
            T5Config(
                vocab_size=len(tokens), d_model=48, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
                feed_forward_proj="gated-gelu", dropout_rate=0.1, tie_word_embeddings=False,
            )
        )  # fmt: skip
        for module in (denoiser, first, second, third):
            spread(module)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    StableDiffusion3Pipeline(
        denoiser, scheduler, vae, first.eval(), clip_words, second.eval(), clip_words, third.eval(), tokens
    ).save_pretrained(folder)
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        shutil.rmtree(folder / name)
        shutil.copytree(words, folder / name)
        said = (
            (words / "tokenizer_config.json")
            .read_text()
            .replace('"pad_token": "<|endoftext|>"', f'"pad_token": "{pad}"')
        )
        (folder / name / "tokenizer_config.json").write_text(said)
        (folder / name / "special_tokens_map.json").unlink(missing_ok=True)
    return folder


def spread(module) -> None:
    """Random values where a fresh module has zeros, or ones so small that nothing would show."""
    import torch

    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)


def t5_tokenizer():
    """A unigram tokenizer over a few words and every letter."""
    from transformers import T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(f"▁{word}", -3.0) for word in WORDS]
    vocabulary += [(letter, -6.0) for letter in LETTERS]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)
