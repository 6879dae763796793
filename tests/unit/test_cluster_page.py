"""The batch files of the cluster page: bash takes them, their flags are the commands', shares cover an array once."""

from __future__ import annotations

import re
import subprocess

import pytest

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def files(repository):
    found = BLOCK.findall((repository / "docs" / "cluster.md").read_text(encoding="utf-8"))
    assert len(found) == 3
    return found


def test_bash_takes_them(files):
    for text in files:
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_shares_of_an_array_are_each_there_once(files):
    lines = [line for line in files[0].splitlines() if line.startswith(("count=", "share="))]
    shares = []
    for task in range(3, 8):
        given = f"SLURM_ARRAY_TASK_MIN=3 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_ID={task}"
        script = "\n".join([*given.split(), *lines, 'echo "$share/$count"'])
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        shares.append(done.stdout.strip())
    assert shares == [f"{share}/5" for share in range(5)]


def test_their_flags_are_the_commands(files, repository):
    pages = {name: (repository / "docs" / "commands" / f"{name}.md").read_text() for name in ("tokenize", "pretrain")}
    common = (repository / "docs" / "commands" / "index.md").read_text()
    for text in files:
        command = re.search(r"chexmix(?:_cli)? (tokenize|pretrain)(.*)", text.replace("\\\n", ""))
        assert command is not None
        for flag in re.findall(r"(?<!\S)(-{1,2}[a-z][a-z-]*)", command[2]):
            assert f"`{flag}`" in pages[command[1]] or f"`{flag}`" in common, flag


def test_what_the_container_copies_is_there(repository):
    text = (repository / "Containerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (repository / name).exists(), name
