"""Between two boundaries no step waits for the device: no copy to the host, no data-dependent shape."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tuner.adapters.lora import LoRA
from tuner.backbones.sd15 import SD15
from tuner.data.sources import PriorSource, Source
from tuner.draws import Draws
from tuner.loop import accumulate, clip, update
from tuner.objectives.ddpm import DDPM
from tuner.processes import Processes
from tuner.sections import EMA, Train
from tuner.student import Student
from tuner.tasks.dreambooth import DreamBooth
from tuner.training import Training
from tuner.types import Batch, Cond

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "unique", "equal")
METHODS = ("item", "tolist", "numpy", "cpu", "nonzero", "unique", "__bool__", "__float__", "__int__")
DATA = {
    "own prior": {"instance": (Source(path="x"),), "prior": (PriorSource(path="y"),)},
    "predicted prior": {"instance": (Source(path="x"),), "prior": (PriorSource(predict=True, caption="a dog"),)},
}


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.__name__.split(".")[0] in WAITS:
            self.waits.append(func.__name__)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_waiting(monkeypatch):
    def refuse(name):
        def raiser(*args, **kwargs):
            raise AssertionError(f"a step called {name}")

        return raiser

    original_to = torch.Tensor.to

    def to(self, *args, **kwargs):
        # Here the device is the CPU itself, so only the literal name is a copy to the host.
        if "cpu" in [a for a in (*args, kwargs.get("device")) if isinstance(a, str)]:
            raise AssertionError("a step moved a tensor to the cpu")
        return original_to(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        for name in METHODS:
            patched.setattr(torch.Tensor, name, refuse(name))
        patched.setattr(torch.Tensor, "to", to)
        for name in ("equal", "nonzero", "unique"):
            patched.setattr(torch, name, refuse(name))
        yield


@pytest.fixture(scope="module")
def model():
    return SD15(model="toybox").load(device=torch.device("cpu"), dtype=torch.float32)


def setup(model, data, *, scaled=False, text_lr=None):
    objective = DDPM(noise_offset=0.1, input_perturbation=0.1, min_snr_gamma=5)
    task = DreamBooth()
    roles = task.roles(DATA[data])
    import copy

    own = copy.copy(model)
    own.denoiser = copy.deepcopy(model.denoiser)
    own.text_encoders = {k: copy.deepcopy(v) for k, v in model.text_encoders.items()}
    attachment = LoRA(rank=2, dropout=0.1, text_encoder_lr=text_lr).attach(own, keep_base=True, draws=Draws(0))
    attachment.train(on=True)
    student = Student(own, [attachment], objective.bind(own.scheduler, torch.device("cpu")))
    training = Training.of(
        [attachment], Train(steps=1, ema=EMA()), torch.device("cpu"), task.logged(roles), scaled=scaled
    )
    shapes = {"latent": (4, 4, 16, 16), "channel": (4, 4, 1, 1), "scalar": (4,)}
    g = torch.Generator().manual_seed(0)
    draws = {n: torch.rand(shapes[d.shape], generator=g) for n, d in objective.needs().items()}
    text = Cond({"text": torch.randn(4, 77, own.denoiser.config.cross_attention_dim, generator=g)})
    if text_lr:
        text = own.tokenize(["a photo of a dog"] * 4)
    batch = Batch(torch.randn(4, 4, 16, 16, generator=g), draws, text, torch.full((4,), 0.5), roles)
    return student, task, training, batch


@pytest.mark.parametrize("scaled", [False, True], ids=["unscaled", "fp16 scaler"])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("text_lr", [None, 1e-4], ids=["unet", "unet and text encoder"])
def test_forward_backward_and_clip_wait_for_nothing(model, monkeypatch, data, scaled, text_lr):
    student, task, training, batch = setup(model, data, scaled=scaled, text_lr=text_lr)
    with no_waiting(monkeypatch), Count() as count:
        sums = accumulate(student, task, training, [batch, batch], step=0, draws=Draws(0), processes=Processes())
        grads = [p.grad for p in training.active()]
        norm = training.guard.check(sums["loss"], grads, 0)
        clip(grads, norm, 1.0)
        training.average.update(0, training.guard.found)
        training.tally.add({**sums, "grad_norm": norm}, training.guard.found)
    assert count.waits == []


def test_the_count_sees_a_wait(model, monkeypatch):
    """The test above could fail: one `.item()` in the loss is enough."""
    student, task, training, batch = setup(model, "own prior")
    with Count() as count:
        batch.weight.sum().item()
    assert count.waits
    with pytest.raises(AssertionError, match="item"), no_waiting(monkeypatch):
        batch.weight.sum().item()


def test_a_bad_step_moves_nothing(model):
    student, task, training, batch = setup(model, "own prior")
    step = {"draws": Draws(0), "processes": Processes()}
    update(training, accumulate(student, task, training, [batch], step=0, **step), step=0, max_grad_norm=1.0)
    before = {g: {n: t.clone() for n, t in own.items()} for g, own in training.tensors().items()}
    bad = Batch(batch.latents * float("nan"), batch.draws, batch.text, batch.weight, batch.roles)
    update(training, accumulate(student, task, training, [bad], step=1, **step), step=1, max_grad_norm=1.0)
    after = training.tensors()
    for group in ("adapter.0", "optimizer", "ema"):
        for name, tensor in before[group].items():
            assert torch.equal(tensor, after[group][name]), (group, name)
    assert int(training.guard.skipped) == 1
    assert int(training.guard.last_bad) == 1
    assert training.tally.read()["loss"] > 0, "the good step still counts"
    update(training, accumulate(student, task, training, [batch], step=2, **step), step=2, max_grad_norm=1.0)
    assert any(not torch.equal(t, before["adapter.0"][n]) for n, t in training.tensors()["adapter.0"].items())


def test_the_fp16_scale_backs_off_and_comes_back(model):
    from tuner.optim.guard import FIRST_SCALE, GROWTH_INTERVAL, Guard

    guard = Guard(torch.device("cpu"), scaled=True)
    one = torch.ones(())
    guard.check(one, [torch.tensor([float("inf")])], 0)
    assert float(guard.scale) == FIRST_SCALE / 2
    assert float(guard.found) == 1
    assert float(guard.worst) == 0, "an overflow of a scaled gradient is the scaler's business"
    for step in range(GROWTH_INTERVAL):
        guard.check(one, [torch.ones(1)], step)
    assert float(guard.scale) == FIRST_SCALE
    grad = torch.full((3,), FIRST_SCALE)
    guard.check(one, [grad], 1)
    assert grad.tolist() == [1, 1, 1], "gradients are unscaled before the clip"
