"""Generated pages are what their generator writes today."""

from __future__ import annotations

import runpy

import typer
from PIL import Image

from chexmix_cli.app import app


def test_the_pages_of_the_commands_are_fresh(repository):
    generator = runpy.run_path(str(repository / "tools" / "generate_docs.py"))
    written = {page.name: page.read_text(encoding="utf-8") for page in (repository / "docs" / "commands").iterdir()}
    assert written == generator["pages"](), "run: python tools/generate_docs.py"
    manual = repository / "docs" / "man" / "chexmix.1"
    assert manual.read_text(encoding="utf-8") == generator["manual"](), "run: python tools/generate_docs.py"


def test_the_settings_of_every_command_are_on_its_page(repository):
    generator = runpy.run_path(str(repository / "tools" / "generate_docs.py"))
    commands = generator["_commands"](typer.main.get_command(app), ())
    with_settings = {" ".join(path) for path, one in commands if any(own.name == "show_config" for own in one.params)}
    # Whose settings are those of the command that they plan.
    assert with_settings - set(generator["ROOTS"]) == {"plan pretrain", "plan generate-report"}


def test_the_pictures_of_the_help_show_what_it_says(repository):
    tool = runpy.run_path(str(repository / "tools" / "help_pictures.py"))
    for name, arguments in tool["PICTURES"].items():
        text = tool["shown"](arguments)
        assert max(map(len, text.splitlines())) <= tool["COLUMNS"]
        with Image.open(repository / "docs" / "images" / f"{name}.png") as picture:
            assert picture.text["text"] == text, "run: python tools/help_pictures.py"


def test_the_tables_of_the_kernels_page_are_fresh(repository):
    generator = runpy.run_path(str(repository / "tools" / "kernel_tables.py"))
    written = (repository / "docs" / "kernels.md").read_text(encoding="utf-8")
    assert written == generator["page"](written), "run: python tools/kernel_tables.py"
