"""The application: its commands, and how errors reach the user. Nothing here imports torch."""

import errno
import os
import sys

import typer

from latent2pixel.cli import (
    ablate,
    compare_crops,
    convert,
    data,
    demo,
    evaluate,
    export,
    families,
    generate,
    inspect,
    ladder,
    train,
    world,
)
from latent2pixel.errors import Interrupted, L2PError

EXIT_BUG = 1
EXIT_USER = 2
EXIT_INTERRUPT = 130
"""What typer makes of Ctrl-C (128 + SIGINT) before ``main`` can see it."""
EXIT_TERMINATED = 143
"""128 + SIGTERM: the work is not done, but what is done is kept."""

app = typer.Typer(
    name="l2p",
    help="Turn a pretrained latent text-to-image diffusion transformer into a pixel-space model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("convert")(convert.convert)
app.command("ladder")(ladder.ladder)
app.command("families")(families.families)
app.command("inspect")(inspect.inspect)
app.command("export")(export.export)
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("evaluate")(evaluate.evaluate)
app.command("ablate")(ablate.ablate)
app.command("compare-crops")(compare_crops.compare_crops)
app.add_typer(data.app, name="data")
app.add_typer(world.app, name="world")


def main() -> None:
    """Run ``l2p``: exit 0 on success, 2 on a user's mistake (told without a traceback), 143 on SIGTERM, 1 on a bug."""
    # diffusers warns that PixelVAE is no AutoencoderKL each time a pixel pipeline loads; a user's own level stands.
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        app()
    except Interrupted as error:
        _fail(str(error), EXIT_TERMINATED)
    except L2PError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail_interrupted()
    except SystemExit as end:
        if end.code != EXIT_INTERRUPT:
            raise
        _fail_interrupted()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(_four_parts("The disk is full", str(error), "free space", "free some, then run the same command again"))


def _fail_interrupted() -> None:
    _fail(_four_parts("Stopped by Ctrl-C", "an interrupt", "the end of the command", "run the same command again"))


def _four_parts(problem: str, found: str, expected: str, fix: str) -> str:
    return str(L2PError(problem, found=found, expected=expected, fix=f"{fix}: it goes on where it stopped."))


def _fail(text: str, code: int = EXIT_USER) -> None:
    sys.stderr.write(f"\nError: {text}\n")
    raise SystemExit(code)
