"""A LoRA of any variant that is killed and goes on is bitwise the one that nobody disturbed, optimizer and files included."""

from __future__ import annotations

import pytest
from kill_harness import NO_PROOF, Killing, arrays, recipe

VARIANTS = {
    "norms of outputs": {
        "dora": "output",
        "conv_rank": 2,
        "ranks": [{"layers": "attn2", "rank": 6}, {"layers": "down_blocks.0", "rank": 2, "alpha": 1}],
        "lora_plus": 4,
        "dropout": 0.1,
        "text_encoder_lr": 1e-3,
    },
    "norms of inputs": {"dora": "input", "rslora": True, "alpha": 4, "conv_rank": 2, "conv_alpha": 1, "dropout": 0.1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_and_resumed_is_bitwise_the_same(name, fork_server, shared_cache, drawn_pictures, tmp_path):
    tree = recipe(
        drawn_pictures,
        **{
            "adapters": [{"name": "lora", "rank": 4, **VARIANTS[name]}],
            "train.steps": 7,
            "task": "finetune",
            "data.images": {"path": str(drawn_pictures), "caption": "a photo of sks dog"},
            "data.instance": None,
            "data.prior": None,
            "sample.every": 7,
        },
    )
    killing = Killing(fork_server, tree, tmp_path, shared_cache, hooks=NO_PROOF)
    checkpoint = killing.reference / "run" / "checkpoints" / "4"
    kept = [key for file in checkpoint.glob("*.safetensors") for key in arrays(file)]
    assert any("lora_magnitude_vector" in key or "dora_scale" in key for key in kept), sorted(kept)[:8]
    story = killing.at("killed", {"group": "steps", "step": 5, "delay_s": 0.0})
    assert story.places == [("steps", 5)]
    assert story.good, (story.unequal[:10], story.leftovers)
