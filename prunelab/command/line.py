"""The command line: `prunelab VERB …`, the same as `python -m prunelab VERB …`.

A verb says what it takes and hands over; its modules are imported inside it, because `prunelab --help` should not wait
for torch. A study itself is run by `flows`, which starts DVC: the package doesn't know it, so `study` becomes that
program.
"""

import json
import os
import sys
from pathlib import Path

import click

from prunelab.errors import InputError, exit_cleanly, nearest

FOLDER = click.Path(path_type=Path)


class Verbs(click.Group):
    """The verbs in the order in which they are written here; an unknown one is told with the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        name = args[0]
        if not name.startswith("-") and name not in self.commands:
            near = nearest(name, self.commands)
            raise InputError(f"there is no verb {name!r}{near}; there are: {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.pass_context
def prunelab(context: click.Context) -> None:
    """Train or take a language model, prune it by many methods, and measure what that costs and buys."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@prunelab.command()
@click.argument("name", required=False)
@click.option("--print", "only_print", is_flag=True, help="Print its whole params.yaml and run nothing.")
@click.option("--workers", type=click.IntRange(min=1), help="How many stages that don't measure run side by side.")
def study(name: str | None, only_print: bool, workers: int | None) -> None:
    """Run a study, or print it.

    NAME: a file of studies/, without .yaml; without a name the params.yaml that is there runs.
    """
    if not only_print:
        run_study(name, workers)
    from prunelab.study import params, studies

    if name is not None:
        click.echo(studies.merge(name).text, nl=False)
    else:
        params.load("params.yaml")
        click.echo(params.text_of("params.yaml"), nl=False)


def run_study(name: str | None, workers: int | None = None) -> None:
    """Become the program that runs the study; this one ends here."""
    words = ["--study", name] if name is not None else []
    words += ["--workers", str(workers)] if workers is not None else []
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "flows.local", *words])


@prunelab.command("try")
@click.argument("model")
@click.option(
    "--rate", type=click.IntRange(1, 99), default=50, show_default=True, help="Percent of the weights to remove."
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=10, show_default=True,
              help="About how long it may take.")  # fmt: skip
@click.option("--plan", "only_plan", is_flag=True, help="Write the study and run nothing.")
def try_model(model: str, rate: int, minutes: float, only_plan: bool) -> None:
    """Prune MODEL in about so many minutes.

    MODEL is a folder or an id of the hub. A study of what fits it and the time is written, studies/try-….yaml, and run.
    """
    from prunelab.command import trying

    name = trying.write(model, rate, minutes)
    if not only_plan:
        run_study(name)


@prunelab.command()
@click.argument("path", type=FOLDER, default="params.yaml")
def check(path: Path) -> None:
    """Look at settings without running anything.

    PATH: their file (params.yaml).
    """
    from prunelab.checks import checks

    click.echo(checks.of_file(path))


@prunelab.command()
@click.option("--report", type=FOLDER, default="report", show_default=True, help="Folder of the report.")
@click.option("--markdown", is_flag=True, help="As Markdown, for a README.")
def results(report: Path, markdown: bool) -> None:
    """Print the table of the last study."""
    from prunelab.report import results

    results.show(report, markdown)


@prunelab.command()
@click.argument("folder", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(folder: Path, as_json: bool) -> None:
    """Say what is in a model's FOLDER.

    Its format, sparsity, size, hash, the dense model it was made of, and whether it loads.
    """
    import json

    from prunelab.command import looking

    facts = looking.look(folder)
    click.echo(json.dumps(facts, indent=2) if as_json else looking.described(facts))


@prunelab.command()
@click.argument("model", type=FOLDER)
@click.argument("picture", type=FOLDER)
@click.option("--text", "texts", metavar="COLUMN=VALUE", multiple=True, help="A column of the prompt; once for each.")
def predict(model: Path, picture: Path, texts: tuple[str, ...]) -> None:
    """Say what the thing on a PICTURE costs.

    MODEL: the folder of a model that a study of prices left, dense or any variant of it. PICTURE: a file.
    """
    from prunelab.tasks.price import predicting

    columns = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--text: expected COLUMN=VALUE, found {text!r}")
        if name in columns:
            raise InputError(f"--text: {name} is given twice; say it once")
        columns[name] = value
    click.echo(predicting.predict(model, picture, columns).text)


@prunelab.command()
@click.argument("variant", type=FOLDER)
@click.argument("out", type=FOLDER)
def export(variant: Path, out: Path) -> None:
    """Write a model as a plain folder.

    VARIANT: its folder, packed or plain. OUT: the folder that from_pretrained will load; a new one, or one that was
    written here, which is replaced.
    """
    from prunelab.delivery import export

    click.echo(export.write(variant, out))


@prunelab.command()
@click.argument("folder", type=FOLDER)
@click.argument("repository")
@click.option("--public", is_flag=True, help="Make a new repository public.")
def publish(folder: Path, repository: str, public: bool) -> None:
    """Upload a delivered model to the hub.

    FOLDER: what the stage export wrote (models/best). REPOSITORY: owner/name; made, private, if it does not exist.
    """
    from prunelab.delivery import hub

    click.echo(hub.push(folder, repository, public))


@prunelab.command()
@click.argument("name", default="verdict")
@click.option("--finished", type=FOLDER, default="finished", show_default=True, help="Folder of the finished studies.")
@click.option("--markdown", is_flag=True, help="Print it as Markdown, for a README.")
def verdict(name: str, finished: Path, markdown: bool) -> None:
    """Say what two finished studies find of the paper's claims.

    NAME: the one stopped in time (verdict); its twin is NAME-past-best. One that is missing is told. Written into the
    folder of the finished studies: NAME.html, NAME.json, NAME.png, NAME-effects.csv. To run both: make verdict.
    """
    from prunelab.verdict import writing

    click.echo(writing.told(writing.write(name, finished), name, finished, markdown))


@prunelab.command()
@click.option("--follow", is_flag=True, help="Show a study while it runs, as its runner says on standard input.")
@click.option("--begin", is_flag=True, help="Begin the study's runs and print their ids, for several machines.")
def mirror(follow: bool, begin: bool) -> None:
    """Copy the results to MLflow.

    Its address is MLFLOW_TRACKING_URI, by default mlflow.db in the current folder.
    """
    if follow and begin:
        raise click.UsageError("--follow and --begin are two things; ask for one")
    if follow:
        from prunelab.mirror import follow as following

        following.main()
        return
    from prunelab.mirror import tracking

    if begin:
        click.echo(json.dumps(tracking.begin()))
    else:
        tracking.bring()


def main(argv: list[str] | None = None) -> None:
    """Run the command line (`argv`: its words, default those of this process); a mistake is one line."""
    exit_cleanly(lambda: _run(argv))


def _run(argv: list[str] | None) -> None:
    try:
        prunelab.main(args=argv, prog_name="prunelab", standalone_mode=False)
    except click.UsageError as error:
        verb = error.ctx.command_path if error.ctx else "prunelab"
        raise InputError(f"{verb}: {error.format_message()} (see {verb} --help)") from None
    except click.Abort:  # Ctrl-C
        sys.exit(130)
