"""The second member of each family, sketched against the seam: an SD3.5-shaped backbone with rectified flow, and textual
inversion. Neither is registered; both go through the loop, the batches and the checkpoint state as they are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tuner.adapters.base import Adapter, Attachment
from tuner.adapters.lora import LoRA
from tuner.backbones.base import Backbone, DiffusionModel
from tuner.data.sources import PriorSource, Source
from tuner.draws import Draws
from tuner.loop import fit
from tuner.objectives.base import BoundObjective, Objective
from tuner.objectives.ddpm import DDPM
from tuner.processes import Processes
from tuner.sections import Train
from tuner.student import Student
from tuner.tasks.dreambooth import DreamBooth
from tuner.training import Training
from tuner.types import Batch, Cond, Draw, Noised, ParamGroup, Posterior, Tokens

CPU = torch.device("cpu")
WAYS = {
    "own prior": {"instance": (Source(path="x"),), "prior": (PriorSource(path="y"),)},
    "predicted prior": {"instance": (Source(path="x"),), "prior": (PriorSource(predict=True, caption="a dog"),)},
}


class Flow(Objective):
    """Rectified flow (Esser et al. 2024): x = (1 - sigma) x_0 + sigma noise, target noise - x_0."""

    shift: float = 3.0

    def needs(self):
        return {"noise": Draw("normal", "latent"), "level": Draw("uniform", "scalar")}

    def bind(self, scheduler, device):
        return BoundFlow(self)


class BoundFlow(BoundObjective):
    prediction = "velocity"

    def __init__(self, flow: Flow):
        self.flow = flow

    def corrupt(self, batch: Batch) -> Noised:
        u, s = batch.draws["level"], self.flow.shift
        sigma = (s * u / (1 + (s - 1) * u))[:, None, None, None]
        noise = batch.draws["noise"]
        x_t = (1 - sigma) * batch.latents + sigma * noise
        return Noised(x_t, sigma.flatten() * 1000, noise - batch.latents, torch.ones_like(u))

    def sampling(self):
        return {"shift": self.flow.shift}


class SD35Sketch(Backbone):
    default_objective = "rectified_flow"
    text_components = ("text_encoder", "text_encoder_2")
    rehearsal: Mapping[str, object] = {}

    def load(self, *, device, dtype):
        return SD35ModelSketch(self)

    def layout(self):
        raise AssertionError("a sketch has no plan")

    def matching(self, where, names):
        ends = (
            "attn.to_q",
            "attn.to_k",
            "attn.to_v",
            "attn.to_out.0",
            "add_q_proj",
            "add_k_proj",
            "add_v_proj",
            "to_add_out",
        )
        return {str(where): [n for n in names if n.endswith(ends)]}

    def matching_text(self, names):
        return [n for n in names if n.endswith(("q_proj", "v_proj"))]


class SD35ModelSketch(DiffusionModel):
    """A transformer, two CLIPs whose outputs are joined, a pooled vector, a VAE with a shift."""

    denoiser_name = "transformer"
    factor, channels = 2, 16

    def __init__(self, backbone):
        from diffusers import AutoencoderKL, SD3Transformer2DModel
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        torch.manual_seed(0)
        self.backbone, self.scheduler = backbone, {}
        self.denoiser = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32, out_channels=16,
            dual_attention_layers=(0,), qk_norm="rms_norm",
        )  # fmt: skip
        self.vae = AutoencoderKL(
            block_out_channels=(8, 16), norm_num_groups=4, latent_channels=16, shift_factor=0.06, scaling_factor=1.5,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        config = CLIPTextConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            projection_dim=16, max_position_embeddings=8, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        self.text_encoders = {name: CLIPTextModelWithProjection(config) for name in backbone.text_components}
        self.tokenizers = {}
        for module in self.components.values():
            module.requires_grad_(False).eval()

    def identity(self, component):
        return component

    def encode_images(self, pixels):
        d = self.vae.encode(pixels).latent_dist
        return Posterior((d.mean - 0.06) * 1.5, d.logvar)

    def decode_latents(self, latents):
        return self.vae.decode(latents / 1.5 + 0.06).sample

    def tokenize(self, prompts):
        ids = torch.tensor([[1, *[3 + sum(w.encode()) % 60 for w in p.split()][:6], *[2] * 8][:8] for p in prompts])
        return Tokens(dict.fromkeys(self.text_encoders, ids))

    def encode_text(self, tokens):
        outs = [e(tokens.ids[n], output_hidden_states=True) for n, e in self.text_encoders.items()]
        text = torch.cat([o.hidden_states[-2] for o in outs], -1)
        return Cond(
            {"text": F.pad(text, (0, 32 - text.shape[-1])), "pooled": torch.cat([o.text_embeds for o in outs], -1)}
        )

    def denoise(self, x_t, timestep, cond):
        return self.denoiser(
            x_t,
            timestep=timestep,
            encoder_hidden_states=cond["text"],
            pooled_projections=cond["pooled"],
            return_dict=False,
        )[0]

    def pipeline(self, scheduler="dpm++", sampling=None):
        raise AssertionError("a sketch draws nothing")


class TextualInversionSketch(Adapter):
    """One new vector over a frozen table (Gal et al. 2022); freezes at `until`, as pivotal tuning needs."""

    until: float = 0.5

    def trains_text(self):
        return True

    def count(self, backbone, layout):
        return ()

    def attach(self, model, *, keep_base, draws):
        return WordSketch(model, self.until)


class NewWord(nn.Module):
    def __init__(self, table: nn.Embedding, new: int):
        super().__init__()
        self.table, self.new, self.on = table, new, True
        self.vector = nn.Parameter(table.weight[new].detach().clone())

    @property
    def weight(self):
        return self.table.weight

    def forward(self, ids):
        base = self.table(ids)
        return torch.where((ids == self.new)[..., None], self.vector, base) if self.on else base


class WordSketch(Attachment):
    def __init__(self, model, until):
        self.until, self.words = until, {}
        for name, encoder in model.text_encoders.items():
            new = int(model.tokenize(["a photo"]).ids[name][0, 1])
            self.words[name] = NewWord(encoder.get_input_embeddings(), new)
            encoder.set_input_embeddings(self.words[name])

    def param_groups(self):
        return [
            ParamGroup(
                "words", {n: w.vector for n, w in self.words.items()}, lr=1e-2, weight_decay=0.0, until=self.until
            )
        ]

    @contextmanager
    def disabled(self):
        for word in self.words.values():
            word.on = False
        yield
        for word in self.words.values():
            word.on = True

    def summary(self):
        return [f"{name}: 1 vector" for name in self.words]

    def export(self, folder, state, about):
        return ()

    def verify(self, files, state):
        return None


def batch_for(model, objective, roles, cached: bool, seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    shape = (2, model.channels, 8, 8)
    blocks = {
        "latents": torch.randn(shape, generator=g),
        "noise": torch.randn(shape, generator=g),
        "level": torch.rand(2, generator=g),
    }
    tensors = {
        k: torch.cat([v if r.mirrors else torch.roll(v, i, 0) for i, r in enumerate(roles)]) for k, v in blocks.items()
    }
    tokens = model.tokenize(["a photo of sks dog"] * 2 + ["a photo of a dog"] * (2 * len(roles) - 2))
    text: Cond | Tokens = tokens
    if cached:
        with torch.no_grad():
            text = model.encode_text(tokens)
    draws = {k: tensors[k] for k in objective.needs()}
    return Batch(tensors["latents"], draws, text, torch.full((2 * len(roles),), 0.5), tuple(roles))


def go(model, attachments, objective, way, steps=4, boundary=lambda done: False):
    task = DreamBooth()
    roles = task.roles(WAYS[way])
    settings = Train(steps=steps, lr=1e-2)
    student = Student(model, attachments, objective.bind(model.scheduler, CPU))
    training = Training.of(attachments, settings, CPU, task.logged(roles), scaled=False)
    cached = not model.learns_text()
    batches = [(s, [batch_for(model, objective, roles, cached, 2 * s + m) for m in range(2)]) for s in range(steps)]
    halved = [(s, [Batch(b.latents, b.draws, b.text, b.weight / 2, b.roles) for b in bs]) for s, bs in batches]
    fit(
        student,
        task,
        training,
        halved,
        steps=steps,
        settings=settings,
        draws=Draws(0),
        processes=Processes(),
        boundary=boundary,
    )
    return training


@pytest.mark.parametrize("way", WAYS)
def test_an_sd35_shaped_backbone_is_one_file(way):
    model = SD35Sketch(model="sketch").load(device=CPU, dtype=torch.float32)
    base = {n: p.clone() for n, p in model.denoiser.named_parameters()}
    attachment = LoRA(rank=2, text_encoder_lr=1e-3).attach(model, keep_base=True, draws=Draws(0))
    start = {n: t.clone() for n, t in attachment.state_dict().items()}
    training = go(model, [attachment], Flow(), way)
    moved = {n.split(".")[0] for n, t in attachment.state_dict().items() if not torch.equal(t, start[n])}
    assert moved >= {"transformer", "text_encoder"}
    assert all(
        torch.equal(p, base[n.replace(".base_layer", "")])
        for n, p in model.denoiser.named_parameters()
        if "lora" not in n
    )
    assert training.tally.read()["loss_prior"] >= 0


@pytest.mark.parametrize("shape", ["sd15", "sd35"])
@pytest.mark.parametrize("way", WAYS)
def test_textual_inversion_is_one_file_and_freezes_at_its_pivot(shape, way, sd15_model):
    sd35 = shape == "sd35"
    model = SD35Sketch(model="sketch").load(device=CPU, dtype=torch.float32) if sd35 else sd15_model
    for module in model.components.values():
        module.requires_grad_(False)
    words = TextualInversionSketch(until=0.5).attach(model, keep_base=True, draws=Draws(0))
    lora = LoRA(rank=2).attach(model, keep_base=True, draws=Draws(0))
    assert model.learns_text(), "text caching turns itself off"
    tables = {n: w.table.weight.clone() for n, w in words.words.items()}
    seen, loras = [], []

    def look(done: int) -> bool:
        seen.append(torch.cat([t.flatten().clone() for t in words.state_dict().values()]))
        loras.append(torch.cat([t.flatten().clone() for t in lora.state_dict().values()]))
        return False

    training = go(model, [words, lora], Flow() if sd35 else DDPM(), way, boundary=look)
    assert not torch.equal(seen[0], seen[1]), "the word moves before the pivot"
    assert torch.equal(seen[1], seen[3]), "and not after it"
    assert not torch.equal(loras[2], loras[3])
    assert all(torch.equal(w.table.weight, tables[n]) for n, w in words.words.items())
    state = {g: {n: t.clone() for n, t in own.items()} for g, own in training.tensors().items()}
    training.restore(state)
    assert set(state) == {"adapter.0", "adapter.1", "optimizer", "counters"}
