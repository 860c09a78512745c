"""The Train screen: a few questions make a recipe, form and text change each other, Check says what it will do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from tuner.errors import RecipeError, TunerError
from webui.forms import basics as asking
from webui.forms import document
from webui.forms.basics import HELP, Basics, Pictures
from webui.forms.check import check
from webui.forms.drafts import Drafts, ago
from webui.forms.methods import methods
from webui.forms.quality import QUALITIES
from webui.forms.told import told as told_by
from webui.html import render
from webui.jobs import words as commands
from webui.workspace import UnknownId

from . import recipe_form
from .desk import RUNS, TRAIN, Desk, Shared, free_run, run_picker, unless_queued
from .events import CLICKS, EDITS, NOT_SURE, QUIET, SURE, guarded, nothing, panel, told
from .photos import Photos, choices

NEW = ""
"""Id of a draft that is not kept yet."""


@dataclass(frozen=True, slots=True)
class Train:
    """Components that other screens and a visit's beginning fill."""

    draft: gr.Dropdown
    answers: tuple[Any, ...]
    """Method, practice, dataset, trigger, subject, quality, name."""
    text: gr.Code
    made: gr.State
    """The text as the answers made it; another one in the editor was edited by hand."""
    said: gr.HTML
    problems: gr.HTML
    fields: gr.HTML
    card: gr.HTML

    @property
    def dataset(self) -> gr.Dropdown:
        return self.answers[2]

    @property
    def following(self) -> list[Any]:
        """What follows from the text."""
        return [self.draft, self.problems, self.fields, self.card]

    @property
    def outputs(self) -> list[Any]:
        return [*self.answers, self.text, self.made, self.said, *self.following]


def build(desk: Desk, shared: Shared) -> Train:
    """Lay the screen out and wire its fields."""
    with gr.Row(equal_height=True):
        draft = gr.Dropdown(drafts(desk), value=NEW, label="Recipe", elem_id="draft", scale=4)
        drop = gr.Button("Delete it", elem_id="drop-draft", min_width=110, scale=1)
    with gr.Group(elem_id="basics"):
        method = gr.Dropdown(
            [(f"{one.title} ({one.base})", one.key) for one in methods() if not one.pairs],
            value=Basics().method,
            label="What to teach, and on which base",
            info=HELP["method"],
            elem_id="method",
        )
        practice = gr.Checkbox(
            label="On the practice model (no download, a minute or two on any machine)",
            value=False,
            info=HELP["practice"],
            elem_id="practice",
        )
        with gr.Row():
            dataset = gr.Dropdown(label="Photos", info=HELP["dataset"], elem_id="train-set")
            quality = gr.Radio([*QUALITIES], value="normal", label="Quality", info=HELP["quality"], elem_id="quality")
        with gr.Row():
            trigger = gr.Textbox("sks", label="Trigger word", info=HELP["trigger"], max_length=80, elem_id="trigger")
            subject = gr.Textbox(
                "", label="What kind of thing", info=HELP["subject"], placeholder="dog", max_length=80, elem_id="class"
            )
            name = gr.Textbox("", label="Name", info=HELP["name"], placeholder="my dog", max_length=80, elem_id="name")
    said = panel(elem_id="answers-said", js_on_load=CLICKS)
    with gr.Row():
        look = gr.Button("Check", elem_id="check")
        start = gr.Button("Start", variant="primary", elem_id="start")
        queue = gr.Button("Queue behind the others", elem_id="queue")
    card = panel(elem_id="plan")
    with gr.Row(elem_id="recipe-row"):
        with gr.Column(scale=3, min_width=320):
            text = gr.Code(
                language="yaml",
                label="Recipe",
                lines=22,
                max_lines=36,
                interactive=True,
                buttons=["copy"],
                elem_id="yaml",
            )
            problems = panel(elem_id="problems")
        with gr.Column(scale=4, min_width=320):
            fields = panel(elem_id="fields", js_on_load=CLICKS + EDITS)
    page = Train(
        draft, (method, practice, dataset, trigger, subject, quality, name), text, gr.State(""), said, problems,
        fields, card,
    )  # fmt: skip
    _wire_answers(desk, page)
    _wire_recipe(desk, page)
    _wire_start(desk, shared, page, look, start, queue)

    @guarded
    def delete(chosen: str) -> Any:
        if chosen == NOT_SURE:
            return nothing(len(page.outputs))
        if chosen:
            Drafts(desk.workspace).delete(chosen)
        return opened(desk, NEW)

    drop.click(delete, draft, page.outputs, js=SURE.format(what="Delete this recipe?"), **QUIET)
    return page


def _wire_answers(desk: Desk, page: Train) -> None:
    @guarded
    def answer(chosen: str, text: str, made: str, *values: Any) -> Any:
        return _answered(desk, chosen, text, made, _basics(values))

    @guarded
    def anew(chosen: str, *values: Any) -> Any:
        return _answered(desk, chosen, "", "", _basics(values))

    method, practice, dataset, trigger, subject, quality, name = page.answers
    inputs = [page.draft, page.text, page.made, *page.answers]
    outputs = [page.text, page.made, page.said, *page.following]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    at_once = [method.input, practice.input, dataset.input, quality.input]
    when_left = [field.blur for field in (trigger, subject, name)] + [f.submit for f in (trigger, subject, name)]
    gr.on([*at_once, *when_left], answer, inputs, outputs, **quiet)
    page.said.click(anew, [page.draft, *page.answers], outputs, **quiet)
    page.draft.input(
        guarded(lambda chosen: opened(desk, chosen)), page.draft, page.outputs, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip


def _wire_recipe(desk: Desk, page: Train) -> None:
    @guarded
    def typed(chosen: str, text: str, *values: Any) -> Any:
        return _following(desk, chosen, text, _basics(values))

    @guarded
    def edit(chosen: str, text: str, *values_and_event: Any) -> Any:
        *values, event = values_and_event
        changed = recipe_form.changed(text, told(event, "id"), told(event, "value"))
        return changed, *_following(desk, chosen, changed, _basics(values))

    @guarded
    def act(chosen: str, text: str, *values_and_event: Any) -> Any:
        *values, event = values_and_event
        changed = document.reset(text, told(event, "id")) if told(event, "do") == "reset" else text
        return changed, *_following(desk, chosen, changed, _basics(values))

    inputs = [page.draft, page.text, *page.answers]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    page.text.input(typed, inputs, page.following, **quiet)
    page.fields.edit(_with_event(edit), inputs, [page.text, *page.following], **quiet)
    page.fields.click(_with_event(act), inputs, [page.text, *page.following], **quiet)


def _with_event(handler: Any) -> Any:
    """Gradio gives the event to a parameter of that type, which it looks for by name among plain ones."""

    def taking(
        chosen: str, text: str, method: Any, practice: Any, dataset: Any, trigger: Any, subject: Any, quality: Any,
        name: Any, event: gr.EventData,
    ) -> Any:  # fmt: skip
        return handler(chosen, text, method, practice, dataset, trigger, subject, quality, name, event)

    return taking


def _wire_start(desk: Desk, shared: Shared, page: Train, look: gr.Button, start: gr.Button, queue: gr.Button) -> None:
    @guarded
    def plan(text: str) -> str:
        return render("plan.html", view=check(text, desk.workspace))

    def starting(*, ahead: bool) -> Any:
        @guarded
        def begin(text: str, *values: Any) -> Any:
            view = check(text, desk.workspace)
            if not view.ok and not (_elsewhere(text) and not document.problems(text)):
                return gr.skip(), gr.skip(), render("plan.html", view=view)
            answers = _basics(values)
            run = free_run(desk.workspace, answers.name.strip() or answers.method)
            place = desk.workspace.runs / run
            with unless_queued(place):
                desk.queue.add(
                    "train",
                    answers.name.strip() or run,
                    lambda folder: commands.train(folder / "recipe.yaml", place),
                    ahead=ahead,
                    files={"recipe.yaml": text},
                )
            return gr.Tabs(selected=RUNS), run_picker(desk, run), ""

        return begin

    inputs, outputs = [page.text, *page.answers], [shared.tabs, shared.run, page.card]
    look.click(plan, page.text, page.card, api_visibility="private")
    start.click(starting(ahead=True), inputs, outputs, api_visibility="private")
    queue.click(starting(ahead=False), inputs, outputs, api_visibility="private")


def begin_with(desk: Desk, shared: Shared, page: Train, photos: Photos) -> None:
    """Let the Photos screen's button take its set into the recipe at hand."""

    @guarded
    def use(dataset: str | None, chosen: str, text: str, made: str, *values: Any) -> Any:
        answers = replace(_basics(values), dataset=dataset or "")
        return (
            gr.Tabs(selected=TRAIN),
            gr.update(choices=sets(desk), value=dataset),
            *_answered(desk, chosen, text, made, answers),
        )

    inputs = [photos.dataset, page.draft, page.text, page.made, *page.answers]
    outputs = [shared.tabs, page.dataset, page.text, page.made, page.said, *page.following]
    photos.train.click(use, inputs, outputs, **QUIET)


def drafts(desk: Desk) -> list[tuple[str, str]]:
    """(what the picker says, id) of every draft, behind a new one."""
    kept = [(f"{draft.title} · {ago(draft.saved)}", draft.id) for draft in Drafts(desk.workspace).listed()]
    return [("a new recipe", NEW), *kept]


def sets(desk: Desk) -> list[tuple[str, str]]:
    """(what the picker says, id) of every set of photos."""
    return choices(desk)


def opened(desk: Desk, chosen: str, dataset: str | None = None) -> Any:
    """A draft, or a new recipe about a set of photos, for `Train.outputs`."""
    there = sets(desk)
    ids = [one for _, one in there]
    try:
        kept = Drafts(desk.workspace).get(chosen) if chosen else None
    except UnknownId:  # remembered by a browser, deleted since
        kept = None
    answers = kept.basics if kept else Basics(dataset=dataset or (ids[0] if ids else ""))
    values = (
        answers.method, answers.practice,
        gr.update(choices=there, value=answers.dataset if answers.dataset in ids else None),
        answers.trigger, answers.subject, answers.quality, answers.name,
    )  # fmt: skip
    if kept:
        made = _made(desk, answers) or ""
        return (*values, kept.text, made, _said(desk, answers, kept.text, made), *_shown(desk, kept.id, kept.text))
    text = _made(desk, answers) or ""
    return (*values, text, text, _said(desk, answers, text, text), *_shown(desk, NEW, text))


def _elsewhere(text: str) -> bool:
    """Whether pictures come from the Hub or a table, which Check does not look at."""
    return any(path.endswith(".dataset") and value for path, value in document.values(text).items())


def _basics(values: Any) -> Basics:
    method, practice, dataset, trigger, subject, quality, name = values
    return Basics(method or Basics().method, bool(practice), dataset or "", trigger, subject, quality, name)


def _made(desk: Desk, answers: Basics) -> str | None:
    """The recipe of the answers; None where they make none yet."""
    pictures = _pictures(desk, answers)
    return None if pictures is None or asking.problems(answers) else asking.apply(answers, pictures)


def _pictures(desk: Desk, answers: Basics) -> Pictures | None:
    """The chosen set; None without one, and where it was deleted or damaged, which the Photos screen says."""
    try:
        return Pictures.of(desk.workspace, answers.dataset) if answers.dataset else None
    except TunerError:
        return None


def _answered(desk: Desk, chosen: str, text: str, made: str, answers: Basics) -> Any:
    """New answers make a new text, but for one that was edited by hand, which stays until its owner lets it go."""
    new = _made(desk, answers)
    if new is None or _by_hand(desk, text, made):
        return gr.skip(), gr.skip(), _said(desk, answers, text, made), *_following(desk, chosen, text, answers)
    return new, new, _said(desk, answers, new, new), *_following(desk, chosen, new, answers)


def _by_hand(desk: Desk, text: str, made: str) -> bool:
    """Whether somebody edited a text: no answers make it, neither those of the page nor those that it tells itself."""
    if not text.strip() or text.strip() == made.strip():
        return False
    try:
        answers = told_by(text)
        return answers is None or (_made(desk, answers) or "").strip() != text.strip()
    except TunerError:
        return True


def _said(desk: Desk, answers: Basics, text: str, made: str) -> str:
    wrong, pictures = asking.problems(answers), _pictures(desk, answers)
    outcome = "" if wrong or pictures is None else asking.outcome(answers, pictures)
    return render(
        "answers.html",
        wrong=wrong,
        notes=asking.notes(answers),
        outcome=outcome,
        photos=pictures is not None,
        by_hand=_by_hand(desk, text, made),
    )


def _following(desk: Desk, chosen: str, text: str, answers: Basics) -> Any:
    """Keep the draft, and show what follows from its text."""
    if not text.strip():
        return gr.skip(), "", "", ""
    kept = Drafts(desk.workspace)
    try:
        return _shown(desk, kept.save(text, answers, chosen or ""), text)
    except UnknownId:  # deleted in another tab: what is typed here is kept as a draft of its own
        return _shown(desk, kept.save(text, answers), text)


def _shown(desk: Desk, chosen: str, text: str) -> Any:
    picker = gr.update(choices=drafts(desk), value=chosen)
    if not text.strip():
        return picker, "", "", ""
    problems = document.problems(text)
    try:
        fields = recipe_form.show(text)
    except RecipeError:  # not even YAML; the problems say where
        fields = gr.skip()
    return picker, render("problems.html", problems=problems, command="tuner run recipe.yaml"), fields, ""
