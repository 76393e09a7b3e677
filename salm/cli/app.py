"""`salm`: the commands, one file each. Nothing heavy is imported before a command runs."""

from typing import Annotated

import typer

import salm
from salm.cli import archive, console
from salm.cli.captions import captions
from salm.cli.convert import convert
from salm.cli.demo import demo
from salm.cli.direction import direction
from salm.cli.doctor import doctor
from salm.cli.index import index
from salm.cli.pack import pack
from salm.cli.prepare import app as prepare_app
from salm.cli.retrieve import EXAMPLE as RETRIEVE_EXAMPLE
from salm.cli.retrieve import retrieve
from salm.cli.simulate import simulate

FORWARDING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = console.new_app(no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"salm {salm.__version__}")
        raise typer.Exit


@app.callback(epilog=console.example("salm demo"))
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find recordings of spatial sound by what is heard and from where."""


app.command(epilog=console.example("salm index recordings --out salm.index"))(index)
app.command(epilog=console.example(f"salm retrieve {RETRIEVE_EXAMPLE}"))(retrieve)
app.command(epilog=console.example("salm stats salm.index"))(archive.stats)
app.command(epilog=console.example("salm verify salm.index"))(archive.verify)
app.command(epilog=console.example("salm compact salm.index"))(archive.compact)
app.command(epilog=console.example("salm merge a.index b.index --out c.index"))(archive.merge)
app.command(epilog=console.example("salm export salm.index --out exported"))(archive.export)
app.command(epilog=console.example("salm direction recordings/scene.flac"))(direction)
app.command(epilog=console.example("salm doctor recordings/scene.flac"))(doctor)
app.command(epilog=console.example("salm simulate sounds/manifest.csv --out scenes --seed 0 --positions 3"))(simulate)
app.add_typer(prepare_app, name="prepare")
app.command(epilog=console.example("salm captions scenes --out scenes/rephrased.jsonl"))(captions)
app.command(epilog=console.example("salm pack scenes --out shards"))(pack)
app.command(epilog=console.example("salm convert --clap laion/clap-htsat-unfused --out runs/salm-base-start"))(convert)
app.command(epilog=console.example('salm demo --query "siren from behind"'))(demo)


@app.command(context_settings=FORWARDING, epilog=console.example("salm train fit --config configs/salm-small.yaml"))
def train(context: typer.Context) -> None:
    """Train the text tower or the whole model."""
    console.require_extra("train", "training", "lightning", "jsonargparse", "open_clip", "yaml")
    from salm.train.cli import main as train_main

    train_main(context.args)


@app.command("eval", context_settings=FORWARDING, epilog=console.example("salm eval --help"))
def evaluate(context: typer.Context) -> None:
    """Measure a model: direction, localisation, retrieval."""
    from salm.cli.evaluate import app as evaluate_app

    code = evaluate_app(args=context.args, prog_name="salm eval", standalone_mode=False)
    if isinstance(code, int) and code:
        raise typer.Exit(code)


def main() -> None:
    """The console script `salm`."""
    console.run(app, "salm")
