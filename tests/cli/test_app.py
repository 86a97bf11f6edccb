"""How the command ends: exit codes, where text goes, what ``--help`` costs. Real processes, as a user starts them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = "from latent2pixel.cli.app import app, main"
COMMANDS = [
    "",
    "demo",
    "convert",
    "ladder",
    "train",
    "generate",
    "data",
    "data filter",
    "data synthesize",
    "data prompts",
    "data taxonomy",
    "world",
]


def start(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


def crash(statement):
    """Run ``l2p crash``, a command that ends with the statement."""
    return start(
        f"import errno, sys\nfrom latent2pixel.errors import DataError\n{MAIN}\n"
        f"@app.command('crash')\ndef crash():\n    {statement}\n"
        "sys.argv = ['l2p', 'crash']\nmain()"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light(command):
    done = start(
        f"import sys\n{MAIN}\nsys.argv = ['l2p', *{command.split()!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = [name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: l2p" in done.stdout


def test_users_mistake_has_four_parts_and_no_traceback():
    done = crash("raise DataError('It is wrong', found=3, expected=4, fix='Add one.')")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.split("\n")[1:] == [
        "Error: It is wrong",
        "  found:    3",
        "  expected: 4",
        "  do:       Add one.",
        "",
    ]


@pytest.mark.parametrize("statement", ["raise RuntimeError('a bug')", "raise OSError(errno.EIO, 'a bug')"])
def test_bug_shows_its_traceback(statement):
    done = crash(statement)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a bug" in done.stderr


def test_full_disk():
    done = crash("raise OSError(errno.ENOSPC, 'No space left on device')")
    assert done.returncode == 2
    assert "The disk is full" in done.stderr
    assert "do:       free some" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "nearest"), [("conver", "convert"), ("data filte", "filter"), ("data filter --jso", "--json")]
)
def test_misspelt_name_is_named(arguments, nearest):
    done = start(f"import sys\n{MAIN}\nsys.argv = ['l2p', *{arguments.split()!r}]\nmain()")
    assert done.returncode == 2
    assert nearest in done.stderr  # typer's words around it differ between commands and options


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_ctrl_c_is_told_in_four_parts(tmp_path):
    """Typer turns Ctrl-C into a silent exit 130 before ``main`` sees it. A pipe that says nothing keeps it busy."""
    os.mkfifo(tmp_path / "prompts.jsonl")
    # A shell that starts the tests in the background has them ignore SIGINT, and children inherit that.
    restore = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"import sys\n{restore}\n{MAIN}\nsys.stderr.write('ready')\nsys.stderr.flush()\nmain()"
    arguments = ["data", "filter", str(tmp_path / "prompts.jsonl"), str(tmp_path / "kept.jsonl")]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr.read(5) == "ready"
    # Opening the other end waits until the command reads.
    with Path(tmp_path / "prompts.jsonl").open("w"):
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert [line.split(":")[0].strip() for line in told.strip().split("\n")] == ["Error", "found", "expected", "do"]
    assert "Stopped by Ctrl-C" in told
