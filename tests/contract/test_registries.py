"""What every member of every family must keep to. A new member is tested by being there."""

from __future__ import annotations

import copy

import pytest
import torch

from tuner import toybox
from tuner.adapters import Adapter
from tuner.backbones import Backbone
from tuner.data.sources import PriorSource, Source
from tuner.draws import Draws
from tuner.loop import accumulate, update
from tuner.objectives import Objective
from tuner.objectives.flow_levels import Density, Shift
from tuner.objectives.flow_weights import Weighting
from tuner.optim.optimizers import Optimizer
from tuner.optim.schedules import Schedule
from tuner.part_types import part_types
from tuner.parts import Choice, Part
from tuner.processes import Processes
from tuner.recipe import Recipe
from tuner.sections import Train
from tuner.student import Student
from tuner.tasks import Task
from tuner.training import Training
from tuner.types import Batch

FAMILIES = [Backbone, Adapter, Task, Objective, Optimizer, Schedule, Density, Shift, Weighting]
CPU = torch.device("cpu")
UNITS = 2


@pytest.fixture(autouse=True, scope="module")
def sd35_stand_in(sd35_folder):
    """A tiny random model where the toybox has no sd35 of its own."""
    real = toybox.folder
    patch = pytest.MonkeyPatch()
    patch.setattr(toybox, "folder", lambda name: real(name) if real(name).is_dir() else sd35_folder)
    yield
    patch.undo()


LORAS = (
    {"dora": "output", "lora_plus": 16.0, "ranks": [{"layers": "to_q", "rank": 4}]},
    {"dora": "input", "rslora": True, "alpha": 8.0},
)
"""LoRAs of another kind than the plain one."""


def variants(family: type[Choice]) -> list[Part]:
    """One value of each member, at its defaults; an adapter also with everything that it may train."""
    values = []
    for name in sorted(family.family):
        given = {"name": name, "model": "toybox"} if family is Backbone else {"name": name}
        values.append(family.read(given))
        if "text_encoder_lr" in type(values[-1]).model_fields:
            values.append(family.read({**given, "text_encoder_lr": 1e-4}))
        if (family, name) == (Adapter, "lora"):
            values += [family.read({**given, **more}) for more in LORAS]
    return values


def fresh(backbone: Backbone):
    model = backbone.load(device=CPU, dtype=torch.float32)
    for module in model.components.values():
        module.requires_grad_(False).eval()
    return model


def make_batch(model, objective, roles, taught=()) -> Batch:
    """Random draws and real tokens, the words that are taught among them; a mirrored role repeats the first block."""
    g = torch.Generator().manual_seed(7)
    side = 64 // model.factor
    count = UNITS * len(roles)
    shapes = {
        "latent": (count, model.channels, side, side),
        "channel": (count, model.channels, 1, 1),
        "scalar": (count,),
    }
    latents = torch.randn(shapes["latent"], generator=g)
    draws = {
        n: (torch.randn if d.kind == "normal" else torch.rand)(shapes[d.shape], generator=g)
        for n, d in objective.needs().items()
    }
    if any(role.mirrors for role in roles):
        latents = latents[:UNITS].repeat(len(roles), 1, 1, 1)
        draws = {n: torch.cat([d[:UNITS]] * len(roles)) for n, d in draws.items()}
    words = [" ".join(["a photo of a", ["dog", "cat"][i], *taught]) for i in range(len(roles)) for _ in range(UNITS)]
    return Batch(latents, draws, model.tokenize(words), torch.full((count,), 1 / UNITS), tuple(roles))


def sources(task: Task) -> list[dict[str, tuple[Source, ...]]]:
    """Ways to give a task its data."""
    first = next(iter(task.sources))
    full = {name: (kind(path="x"),) for name, kind in task.sources.items()}
    ways = [full, {first: full[first]}]
    if PriorSource in task.sources.values():
        ways.append(full | {"prior": (PriorSource(predict=True, caption="a dog"),)})
    return ways


def start(backbone, adapter, task, data, objective=None, *, keep_base=False):
    model = fresh(backbone)
    objective = objective or backbone.objective()
    attachment = adapter.attach(model, keep_base=keep_base or task.needs_teacher(data), draws=Draws(0))
    roles = task.roles(data)
    student = Student(model, [attachment], objective.bind(model.scheduler, CPU))
    training = Training.of([attachment], Train(steps=4, lr=1e-3), CPU, task.logged(roles), scaled=False)
    return student, training, make_batch(model, objective, roles, adapter.words())


def train(task, student, training, batch, steps=2):
    for step in range(steps):
        sums = accumulate(student, task, training, [batch], step=step, draws=Draws(0), processes=Processes())
        update(training, sums, step=step, max_grad_norm=1.0)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_every_member_reads_back_and_is_documented(family):
    assert family.family, "an empty family tests nothing"
    for member in variants(family):
        tree = {"name": member.key, **member.model_dump(mode="json")}
        assert family.read(tree) == member
        assert (type(member).__doc__ or "").strip()
        for name, field in type(member).model_fields.items():
            assert field.description, f"{type(member).__name__}.{name} has no help sentence"


def test_every_key_of_a_recipe_has_a_help_sentence():
    seen: set[type[Part]] = set()
    queue = [Recipe]
    while queue:
        part = queue.pop()
        if part in seen:
            continue
        seen.add(part)
        for name, field in part.model_fields.items():
            assert field.description, f"{part.__name__}.{name} has no help sentence"
            for kind in part_types(field.annotation):
                members = kind.family.values() if issubclass(kind, Choice) and kind.opens_family else [kind]
                queue.extend(members)
    assert len(seen) > 10


@pytest.mark.parametrize("backbone", variants(Backbone), ids=lambda b: b.key)
@pytest.mark.parametrize("adapter", variants(Adapter), ids=repr)
class TestAdapters:
    def test_untrained_it_equals_the_base_bitwise(self, backbone, adapter):
        model = fresh(backbone)
        roles = Task.read("finetune").roles({"images": (Source(path="x"),)})
        batch = make_batch(model, backbone.objective(), roles)
        t = torch.full((UNITS,), 500.0)
        with torch.no_grad():
            before = model.denoise(batch.latents, t, model.encode_text(batch.text))
            adapter.attach(model, keep_base=False, draws=Draws(0))
            after = model.denoise(batch.latents, t, model.encode_text(batch.text))
        assert torch.equal(before, after)

    def test_only_what_it_declares_moves(self, backbone, adapter):
        task = Task.read("finetune")
        student, training, batch = start(backbone, adapter, task, {"images": (Source(path="x"),)})
        declared = {id(p) for group in training.groups for p in group.params.values()}
        named = {f"{c}.{n}": p for c, module in student.model.components.items() for n, p in module.named_parameters()}
        before = {n: p.detach().clone() for n, p in named.items()}
        train(task, student, training, batch)
        moved = {n for n, p in named.items() if not torch.equal(p, before[n])}
        assert moved
        assert all(id(named[n]) in declared for n in moved)
        assert {n for n, p in named.items() if p.requires_grad} == {n for n, p in named.items() if id(p) in declared}
        assert all(p.dtype == torch.float32 for group in training.groups for p in group.params.values())

    def test_disabled_is_the_base(self, backbone, adapter):
        task = Task.read("finetune")
        student, training, batch = start(backbone, adapter, task, {"images": (Source(path="x"),)}, keep_base=True)
        base = fresh(backbone)
        noised = student.objective.corrupt(batch)
        old = base.tokenize(["a photo of a dog"] * UNITS)  # of a word that it is taught the base knows no id
        with torch.no_grad():
            plain = base.denoise(noised.x_t, noised.timestep, base.encode_text(old))
            untrained = student.predict(noised, batch.text)
        train(task, student, training, batch)
        with torch.no_grad():
            learned = student.predict(noised, batch.text)
        with student.teacher():
            taught = student.predict(noised, batch.text)
            assert not taught.requires_grad
            assert torch.equal(plain, student.predict(noised, old))
        assert torch.equal(untrained, taught)
        assert (untrained - learned).abs().max() > 1e-5
        assert torch.equal(student.predict(noised, batch.text), learned), "and it is back afterwards"

    def test_what_it_saves_brings_it_back(self, backbone, adapter):
        task = Task.read("finetune")
        student, training, batch = start(backbone, adapter, task, {"images": (Source(path="x"),)})
        train(task, student, training, batch)
        other, second, _ = start(backbone, adapter, task, {"images": (Source(path="x"),)})
        state = {n: t.clone() for n, t in training.attachments[0].state_dict().items()}
        assert state
        second.attachments[0].load_state_dict(state)
        noised = student.objective.corrupt(batch)
        with torch.no_grad():
            assert torch.equal(student.predict(noised, batch.text), other.predict(noised, batch.text))
        with pytest.raises(ValueError, match="names differ"):
            second.attachments[0].load_state_dict(dict(list(state.items())[1:]))

    def test_the_plan_counts_what_is_attached(self, backbone, adapter):
        model = fresh(backbone)
        attachment = adapter.attach(model, keep_base=False, draws=Draws(0))
        attached = sum(p.numel() for group in attachment.param_groups() for p in group.params.values())
        counts = adapter.count(backbone, backbone.layout())
        assert sum(count.parameters for count in counts) == attached
        assert len(attachment.summary()) == len(counts)


@pytest.mark.parametrize("backbone", variants(Backbone), ids=lambda b: b.key)
@pytest.mark.parametrize("task", variants(Task), ids=lambda t: t.key)
class TestTasks:
    def test_the_loss_is_a_pure_function_of_batch_and_weights(self, backbone, task):
        for data in sources(task):
            student, _, batch = start(backbone, Adapter.read("lora"), task, data)
            first, second = task.loss(student, batch), task.loss(student, batch)
            assert torch.equal(first.total, second.total)
            assert set(first.parts) == set(task.logged(batch.roles))
            assert torch.isfinite(first.total)

    def test_weights_scale_the_loss_and_nothing_else(self, backbone, task):
        """The loss is linear in the weights: that is what makes accumulation exact."""
        for data in sources(task):
            student, _, batch = start(backbone, Adapter.read("lora"), task, data)
            half = Batch(batch.latents, batch.draws, batch.text, batch.weight / 2, batch.roles)
            assert torch.allclose(task.loss(student, batch).total, 2 * task.loss(student, half).total, rtol=1e-5)


@pytest.mark.parametrize("backbone", variants(Backbone), ids=lambda b: b.key)
def test_backbones_keep_their_promises(backbone):
    model = fresh(backbone)
    layout = backbone.layout()
    assert (layout.factor, layout.channels) == (model.factor, model.channels)
    for name, module in model.components.items():
        assert layout.parameters[name] == sum(p.numel() for p in module.parameters()), name
    assert set(model.text_encoders) == set(backbone.text_components)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    posterior = model.encode_images(pixels)
    assert posterior.mean.shape == posterior.logvar.shape == (1, model.channels, 64 // model.factor, 64 // model.factor)
    assert model.decode_latents(posterior.mean).shape == pixels.shape
    copied = copy.deepcopy(backbone)
    assert copied == backbone
    for name in model.components:
        assert model.identity(name) == fresh(backbone).identity(name)


def test_the_rehearsal_of_every_backbone_names_real_keys():
    from tuner.recipe_file import load_recipe

    for backbone in variants(Backbone):
        assert backbone.rehearsal["backbone.model"] == "toybox"
    recipe = load_recipe("dreambooth_lora", rehearse=True)
    assert recipe.backbone.model == "toybox"
    assert recipe.train.steps is not None
    assert recipe.train.steps <= 400
