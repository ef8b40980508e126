"""What the command line prints out of files steers no terminal; folders it cannot use are named."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import latentvla_core
from latentvla_core import __version__
from latentvla_core.cli import app
from latentvla_core.errors import SetupError
from latentvla_core.lake.places import home_folder
from latentvla_core.lake.printing import printable, write_table


def test_the_version_is_told():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and result.output.strip() == f"latentvla {__version__}"


def test_markup_and_escape_codes_in_cells_are_shown_and_do_nothing(capsys):
    write_table(pa.table({"[b]name": ["[red]x[/red]", "[/nope]", "\x1b[2Jgone"]}), "table", None)
    out = capsys.readouterr().out
    assert "[b]name" in out and "[red]x[/red]" in out and "[/nope]" in out
    assert "\x1b[2J" not in out and "\\x1b[2Jgone" in out


def test_printable_leaves_letters_of_all_languages():
    assert printable("Fahrt ä 東京\nzwei") == "Fahrt ä 東京\nzwei"
    assert printable("a\x07\u202eb") == "a\\x07\\u202eb"


@pytest.mark.parametrize("sign", "%?")
def test_a_home_that_no_database_can_have_is_refused_with_the_variable(sign):
    with pytest.raises(SetupError, match="LATENTVLA_HOME"):
        home_folder({"LATENTVLA_HOME": f"scratch/a{sign}b"})


def test_a_tilde_means_the_home_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder({"LATENTVLA_HOME": "~/lv"}) == tmp_path / "lv"


def test_a_python_that_is_too_old_is_told_so_by_words_it_understands(monkeypatch):
    text = Path(latentvla_core.__file__).read_text()
    ast.parse(text, feature_version=(3, 4))
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 to 3\.13, this is 3\.9"):
        exec(compile(text, "__init__.py", "exec"), {})


def test_make_refuses_a_python_that_is_too_old_before_it_makes_anything(tmp_path):
    old = tmp_path / "python"
    told = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f"#!/bin/sh\nshift\nexec {sys.executable} -c '{told}' \"$@\"\n")
    old.chmod(0o755)
    command = ["make", "setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    root = Path(latentvla_core.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "Python 3.9 is too old or too new; Python 3.11 to 3.13 is needed" in done.stderr
    assert not (tmp_path / "venv").exists()
