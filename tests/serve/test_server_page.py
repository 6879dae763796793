"""The page of the server: its table of codes is the code's, its commands run against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from chexmix_cli.core.settings.serving import HttpSettings
from chexmix_cli.serve.http.errors import STATUS
from chexmix_cli.serve.http.gate import PATHS
from chexmix_cli.serve.http.schemas import ChatRequest


@pytest.fixture
def page(repository):
    return (repository / "docs" / "server.md").read_text(encoding="utf-8")


def rows(page: str, heading: str) -> list[list[str]]:
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [re.split(r" *\| *", line.strip("| ")) for line in section.splitlines() if line.startswith("| `")]


def block(page: str, language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]


def test_every_code_has_its_status_in_the_table(page):
    assert {row[0].strip("`"): int(row[1]) for row in rows(page, "Errors")} == STATUS


def test_every_field_of_a_completion_is_told(page):
    named = {name for row in rows(page, "Fields of a chat completion") for name in re.findall(r"`([\w.]+)`", row[0])}
    assert {name.partition(".")[0] for name in named} == set(ChatRequest.model_fields)


def test_every_path_is_told(page):
    told = " ".join(row[0] for row in rows(page, "Paths"))
    assert all(path in told for path in PATHS)
    for key in re.findall(r"`server\.(\w+)`", page):
        assert key in HttpSettings.__dataclass_fields__


def test_its_commands_run(page, client, repository, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = block(page, "bash").replace("127.0.0.1:8000", f"127.0.0.1:{client.port}").replace("chexmix-mini", "debug")
    (tmp_path / "docs").symlink_to(repository / "docs")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True, timeout=60
    )
    # The debug model has no head: its answer to /classify is an error in the form that the page says.
    for said in ('"chat.completion"', '"token_ids"', '"NO_HEAD"', '"id":"debug"', '{"status":"ok"}'):
        assert said in done.stdout


def test_its_python_runs(page, client, repository, tmp_path):
    pytest.importorskip("openai", reason="the openai package is not installed")
    script = (
        block(page, "python").replace("127.0.0.1:8000", f"127.0.0.1:{client.port}").replace("chexmix-mini", "debug")
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=repository, check=True, timeout=60
    )
    whole, mark, streamed = done.stdout.partition("AI-generated, preliminary, unverified; not for clinical use\n")
    assert mark
    assert whole.rstrip("\n") == streamed.rstrip("\n") != ""
