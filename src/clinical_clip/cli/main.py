"""``clinical-clip``: the verbs, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clinical_clip import __version__
from clinical_clip.cli.data import data_app
from clinical_clip.cli.demo import demo
from clinical_clip.cli.embed import embed
from clinical_clip.cli.encoder import encoder_app
from clinical_clip.cli.evaluate import evaluate_app
from clinical_clip.cli.index import index_app
from clinical_clip.cli.samples import samples_app
from clinical_clip.cli.search import search
from clinical_clip.cli.train import train_app
from clinical_clip.errors import ClinicalClipError

__all__ = ["app", "run"]

app = typer.Typer(
    name="clinical-clip",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Index, search and measure libraries of medical images. Research use; not for diagnosis.",
)
app.command()(demo)
app.command()(embed)
app.add_typer(index_app, name="index")
app.command()(search)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(encoder_app, name="encoder")
app.add_typer(samples_app, name="samples")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"clinical-clip {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Index, search and measure libraries of medical images. Research use; not for diagnosis."""


def run() -> None:
    """Run the command line. Exit codes: 0 done, 2 what was asked cannot be done, 1 it failed."""
    try:
        app()
    except ClinicalClipError as error:
        print_error(error)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def print_error(error: ClinicalClipError) -> None:
    """What, where, and what to do, on standard error."""
    print(f"error: {error.what}", file=sys.stderr)
    if error.where:
        print(f"  where: {error.where}", file=sys.stderr)
    if error.hint:
        print(f"  do:    {error.hint}", file=sys.stderr)
