"""The documents: links resolve, tables agree with the code, what they name exists."""

from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from chexmix_cli import __version__
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import ExitCode, Reason

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("chexmix_cli/assets/**/*.md")]
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_resolve(page):
    assert broken_links(page) == []


def test_a_broken_link_would_be_seen(tmp_path):
    (tmp_path / "other.md").write_text("# A heading, here\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md) [b](other.md#a-heading-here) [c](other.md#no) [d](none.md) ![e](none.png) [f](#x)\n")
    assert broken_links(page) == ["other.md#no", "none.md", "none.png", "#x"]


def test_every_page_is_in_the_index():
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    for page in REPOSITORY.glob("docs/*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def table(page: str, heading: str) -> dict[str, str]:
    """Return first column to the rest of the table below a heading."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ?([^|]+?) ?\| ?(.+?) ?\|$", text, re.MULTILINE)
    return {first.strip("` "): rest for first, rest in rows[1:] if not first.startswith("-")}


def test_every_exit_code_and_reason_is_documented():
    assert set(table("troubleshooting.md", "Exit codes")) == {str(code.value) for code in ExitCode}
    assert set(table("data.md", "Reason codes")) == {reason.value for reason in Reason}


def test_the_manifest_table_has_the_fields_of_a_row():
    fields = {name for cell in table("data.md", "Manifest") for name in re.findall(r"\w+", cell)}
    assert fields == set(ManifestRow.__dataclass_fields__)


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")


def test_constraints_pin_every_direct_dependency():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    names = {re.split(r"[\[<>=;]", requirement)[0].lower() for requirement in wanted} - {"chexmix"}
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert set(pins) == names
    assert pins["torch"] == "2.13.0"


def test_the_lowest_constraints_are_the_lower_bounds():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (REPOSITORY / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins == [requirement.replace(">=", "==") for requirement in project["dependencies"]]


def test_make_targets_named_in_the_documents_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"\n{target}: " in makefile, f"{page.name}: make {target}"


def test_the_fast_tests_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    names = makefile.split("\nFAST := $(addprefix tests/unit/,")[1].split(")")[0].replace("\\", " ").split()
    assert all((REPOSITORY / "tests" / "unit" / name).exists() for name in names)


def test_ci_runs_the_tests():
    script = REPOSITORY / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert "make test" in lines


def test_the_tree_in_the_design_has_every_folder():
    text = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    tree = text.split("\n## The tree\n")[1].split("\n## ")[0]
    shown, parents = set(), []
    for indent, name in re.findall(r"^ {4}( *)(\w+)/", tree, re.MULTILINE):
        parents[len(indent) // 2 :] = [name]
        shown.add("/".join(parents))
    folders = {path.parent for path in (REPOSITORY / "chexmix_cli").rglob("*.py")}
    assert {folder.relative_to(REPOSITORY).as_posix() for folder in folders} <= shown
    assert all((REPOSITORY / name).is_dir() for name in shown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_files_named_in_the_documents_exist(page):
    if page.name == "CHANGELOG.md":  # which speaks of its own time
        return
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:(?:core|commands|library|tests|tools|benchmarks|docs)/)[\w./-]+)`", text)
    for name in named:
        if not re.search(r"OP|NAME", name):
            assert (REPOSITORY / name).exists() or (REPOSITORY / "chexmix_cli" / name).exists(), name
