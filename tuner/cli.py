"""The `tuner` command: its subcommands by name, and one border where every fault becomes a message and an exit code."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from . import __version__
from .commands import (
    cache,
    check_adapter,
    dataset,
    doctor,
    evaluate,
    export,
    extract,
    faults,
    generate,
    grid,
    import_file,
    inspect,
    merge,
    package,
    publish,
    quickstart,
    recipes,
    resize,
    run,
    runs,
    study,
    token,
    ui,
)

OVERVIEW = """\
tuner teaches Stable Diffusion a subject or a style, and writes a file that diffusers, A1111 and ComfyUI load.

  tuner quickstart                           see it work in two minutes: small model, drawn photos, no download
  tuner ls                                   the recipes that come with tuner
  tuner cp dreambooth_lora mine.yaml         a recipe of your own; every line of it is explained
  tuner plan mine.yaml data.instance.path=photos/    what it will do and need, before it does it
  tuner run mine.yaml data.instance.path=photos/     do it; the same command goes on after a stop

`tuner --help` lists every command, `tuner doctor` says whether this machine is ready."""

app = typer.Typer(
    name="tuner",
    help="Teach Stable Diffusion a subject or a style; get a file that diffusers, A1111 and ComfyUI load.",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tuner {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def overview(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What comes before a command."""
    if context.invoked_subcommand is None:
        typer.echo(OVERVIEW)


TRAIN, LOOK, USE, CARE = "Train", "Look before you run", "Use what came out", "Housekeeping"

app.command("quickstart", rich_help_panel=TRAIN)(quickstart.quickstart)
app.command("ui", rich_help_panel=TRAIN)(ui.ui)
app.command("run", rich_help_panel=TRAIN)(run.run)
app.command("runs", rich_help_panel=TRAIN)(runs.list_runs)
app.command("stop", rich_help_panel=TRAIN)(runs.stop)
app.command("save", rich_help_panel=TRAIN)(runs.save)
app.command("sample", rich_help_panel=TRAIN)(runs.sample)
app.add_typer(dataset.app, name="dataset", rich_help_panel=LOOK)
app.command("check", rich_help_panel=LOOK)(study.check)
app.command("plan", rich_help_panel=LOOK)(study.show_plan)
app.command("show", rich_help_panel=LOOK)(study.show)
app.command("schema", rich_help_panel=LOOK)(study.schema)
app.command("token", rich_help_panel=LOOK)(token.token)
app.command("ls", rich_help_panel=LOOK)(recipes.ls)
app.command("cat", rich_help_panel=LOOK)(recipes.cat)
app.command("cp", rich_help_panel=LOOK)(recipes.cp)
app.command("generate", rich_help_panel=USE)(generate.generate)
app.command("grid", rich_help_panel=USE)(grid.grid)
app.command("eval", rich_help_panel=USE)(evaluate.evaluate)
app.command("export", rich_help_panel=USE)(export.export)
app.command("check-adapter", rich_help_panel=USE)(check_adapter.check_adapter)
app.command("merge", rich_help_panel=USE)(merge.merge)
app.command("extract", rich_help_panel=USE)(extract.extract)
app.command("resize", rich_help_panel=USE)(resize.resize)
app.command("package", rich_help_panel=USE)(package.package)
app.command("publish", rich_help_panel=USE)(publish.publish)
app.command("import", rich_help_panel=USE)(import_file.import_file)
app.command("inspect", rich_help_panel=USE)(inspect.inspect)
app.add_typer(cache.app, name="cache", rich_help_panel=CARE)
app.command("doctor", rich_help_panel=CARE)(doctor.doctor)


def main(words: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code: 0, or as documented in `faults.py`."""
    words = list(sys.argv[1:] if words is None else words)
    hush()
    # torch and diffusers import a million objects that stay. Collecting garbage among them as often as Python does
    # by default takes a fifth of that time, and once more a second on the way out.
    gc.set_threshold(100_000, 20, 100)
    code = call(words)
    gc.freeze()
    sys.exit(code)


def hush() -> None:
    """Keep developers' notices of the libraries below from users; TUNER_DEBUG=1 shows them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a prompt that the terminal cannot spell is no fault
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them takes 35 ms, and there are none
    if os.environ.get("TUNER_DEBUG") == "1":
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", kind)


def call(words: Sequence[str]) -> int:
    """Run one command; gives the exit code. Nothing but SystemExit of a second Ctrl-C comes out of it."""
    as_json = "--json" in words
    try:
        answer: Any = app(words, prog_name="tuner", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:  # the border of the program: every fault becomes a message and a code here
        return faults.report(error, as_json=as_json)
    return answer if isinstance(answer, int) else 0


if __name__ == "__main__":
    main()
