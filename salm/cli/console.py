"""What every command shares: options, output, and how a user's mistake ends (one line, exit code 2, no traceback)."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from typing import Annotated, Any, NoReturn

import typer

from salm.errors import DependencyError, SalmError

EXIT_FAILURE = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notes on stderr.")]
ModelName = Annotated[
    str,
    typer.Option("--model", envvar="SALM_MODEL", help="Bundled model, checkpoint folder or Hugging Face repo id."),
]


class PrecisionName(StrEnum):
    """Precisions of the audio tower, see `salm.load`."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT16 = "int16"
    AUTO = "auto"


Precision = Annotated[
    PrecisionName,
    typer.Option(
        "--precision",
        help="Of the audio tower: bfloat16 (GPUs, AMX), int8 (x86-64), int16 (x86-64, more exact), auto: the fastest.",
    ),
]
Convention = Annotated[
    str, typer.Option("--convention", help="Channel convention of the files: ambix (W, Y, Z, X) or fuma (W, X, Y, Z).")
]

# typer may bring its own copy of click, so its base class is taken from what typer exports.
_ClickException: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException" and issubclass(kind, Exception)
)


class Interrupted(Exception):
    """Ctrl-C in a command that can go on later; the message says how."""


def new_app(**options: Any) -> typer.Typer:
    """An app whose help is plain text and whose errors are left to `run`."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def example(line: str) -> str:
    r"""A command's epilog: one line that runs, never wrapped (click's ``\b``)."""
    return f"\b\nExample: {line}"


def run(app: Callable[..., Any], prog_name: str) -> NoReturn:
    """Run an app on `sys.argv` and exit: 0, 2 for a user's mistake, 130 for Ctrl-C, or what a command asked for."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name=prog_name, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has enough (`| head`); what is still buffered must not raise again at exit.
        sys.stdout = None  # type: ignore[assignment]
        code = 0
    except Interrupted as interruption:
        code = _fail(f"interrupted; {interruption}", EXIT_INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted; run the same command again", EXIT_INTERRUPTED)
    except _ClickException as error:
        code = _fail(_usage_message(error, prog_name), EXIT_MISTAKE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}; check the path, its permissions and the disk", EXIT_MISTAKE)
    except Exception as error:
        if not _is_mistake(error):
            raise
        code = _fail(str(error), EXIT_MISTAKE)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def resumable(hint: str) -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM (from a job scheduler) end the command with a line that says how to go on."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    previous = signal.signal(signal.SIGTERM, interrupt) if is_main else None
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(hint) from error
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, previous)


def note(message: str, *, quiet: bool = False) -> None:
    """A remark on stderr."""
    if not quiet:
        typer.echo(message, err=True)


def print_error(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    typer.echo("error: " + " ".join(message.split()), err=True)


def print_json(value: Any) -> None:
    """A value on stdout as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns on stdout, wide enough for their cells; a column whose cells all look like numbers is right-aligned."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [bool(column[1:]) and all(_looks_like_number(cell) for cell in column[1:]) for column in columns]
    for line in (header, *rows):
        cells = (
            cell.rjust(width) if align else cell.ljust(width)
            for cell, width, align in zip(line, widths, right, strict=True)
        )
        typer.echo("  ".join(cells).rstrip())


def require_extra(extra: str, purpose: str, *modules: str) -> None:
    """Say which extra to install before a missing module says it in a traceback.

    Raises:
        DependencyError: one of the modules is not installed.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise DependencyError(f'{purpose} needs {", ".join(missing)}: pip install "salm[{extra}]"')


def _looks_like_number(cell: str) -> bool:
    try:
        float(cell.rstrip("°%") or "0")
    except ValueError:
        return False
    return True


def _usage_message(error: Exception, prog_name: str) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else prog_name
    message = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    return f"{message}; see {command} --help"


def _is_mistake(error: Exception) -> bool:
    if isinstance(error, SalmError):
        return True
    index_errors = sys.modules.get("salm_index.errors")  # not imported: then it raised nothing
    return index_errors is not None and isinstance(error, index_errors.SalmIndexError)


def _fail(message: str, code: int) -> int:
    print_error(message)
    return code
