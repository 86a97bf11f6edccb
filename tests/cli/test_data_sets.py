"""``l2p data import``, ``pack``, ``push`` and ``stats``, from arguments to what they print."""

import json
import subprocess
import sys

import pytest
from tests.data.pictures import noise, write_images
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.errors import DataError


def run(*arguments):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def real(tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    for number in range(3):
        noise(number).save(folder / f"{number}.png")
    (folder / "metadata.csv").write_text("file_name,text,likes\n0.png,a fox,3\n1.png,a hare,4\nx.png,gone,5\n")
    return folder


def test_import(real, tmp_path):
    out = tmp_path / "images"
    result = run("import", real, out, "--size", 16, "--licence", "cc0-1.0")
    assert result.stdout == f"{out}\n"
    assert "2 images, 1 rows without one" in result.stderr
    assert "1: no such file" in result.stderr
    assert "not taken over: likes" in result.stderr
    assert ImageFolderDataset(out, 16).prompts == ["a fox", "a hare"]
    again = json.loads(run("import", real, out, "--size", 16, "--licence", "cc0-1.0", "--json").stdout)
    assert (again["num_images"], again["num_new"], again["skipped"]) == (2, 0, {"no such file": 1})


def test_pack_push_and_stats(tmp_path):
    write_images(tmp_path / "images", num=3)
    out = tmp_path / "packed"
    assert run("pack", tmp_path / "images", out).stdout == f"{out}\n"
    assert json.loads(run("pack", tmp_path / "images", out, "--json").stdout)["num_new"] == 0
    plan = json.loads(run("push", out, "me/set", "--dry-run", "--json").stdout)
    assert (plan["private"], plan["licence"], len(plan["files"])) == (True, "apache-2.0", 2)
    assert "to me/set, public, licence apache-2.0" in run("push", out, "me/set", "--dry-run", "--public").stdout
    for folder in (tmp_path / "images", out, tmp_path):
        stats = json.loads(run("stats", folder, "--json").stdout)
        assert (stats["images"]["images"], stats["prompts"]) == (3, None)
    page = tmp_path / "page.html"
    result = run("stats", out, "--html", page)
    assert "images      3 of 3 texts" in result.stdout
    assert "class         100.0%  nature" in result.stdout
    assert page.read_text().count("data:image/jpeg") == 3
    with pytest.raises(DataError, match="no packed set"):
        run("push", tmp_path / "images", "me/set", "--dry-run")


def test_a_mistake_is_told_without_a_traceback(tmp_path):
    arguments = ["l2p", "data", "stats", str(tmp_path)]
    script = f"import sys; sys.argv = {arguments!r}; from latent2pixel.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds no data" in done.stderr
    assert "Traceback" not in done.stderr


def test_stats_need_no_diffusers(tmp_path):
    """Whoever only counts images does not wait for it."""
    write_images(tmp_path, num=1)
    script = (
        f"import sys; from latent2pixel.cli.app import app; app(['data', 'stats', {str(tmp_path)!r}], "
        "standalone_mode=False); print([name for name in ('diffusers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
