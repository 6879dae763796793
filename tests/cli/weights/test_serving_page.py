"""docs/serving-elsewhere.md: its commands and its Python run as they stand there, and give the ids that it says."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from chexmix_cli.__main__ import run
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights import open_weights


def section(page: str, heading: str) -> str:
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return "\n".join(found)


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "serving-elsewhere.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(page: str, tmp_path_factory: pytest.TempPathFactory, plain_weights: Path, repository: Path) -> Path:
    """Return a folder in which the page's commands ran."""
    folder = tmp_path_factory.mktemp("serving")
    shutil.copytree(plain_weights, folder / "WEIGHTS")
    shutil.copyfile(repository / "docs/images/demo-film.jpg", folder / "film.jpg")
    with contextlib.chdir(folder):
        for words in map(shlex.split, filter(None, blocks(page, "sh").replace("\\\n", " ").splitlines())):
            name, *arguments = words[: words.index(">")] if ">" in words else words
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                assert (name, run(arguments)) == ("chexmix", 0), words
            if ">" in words:
                Path(words[-1]).write_text(output.getvalue())
    return folder


@pytest.fixture
def ran(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the names that the page's prompt made."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(blocks(section(page, "The prompt of a film"), "python"), "prompt", "exec"), names)
    return names


def report_ids(folder: Path) -> list[int]:
    """Return what chexmix wrote, up to the first end."""
    vocabulary = open_weights(folder / "WEIGHTS").settings.vocabulary
    (record,) = (json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines())
    return vocabulary.cut_report(record["token_ids"])


def ended(vocabulary: Vocabulary, token_ids: list[int]) -> list[int]:
    assert token_ids[-1] in (vocabulary.begin_text, vocabulary.begin_image)
    return vocabulary.cut_report(token_ids)


def test_the_prompt_is_a_report_prompt(folder: Path, ran: dict[str, Any]) -> None:
    vocabulary = open_weights(folder / "WEIGHTS").settings.vocabulary
    assert vocabulary.parse_document(ran["prompt"]) == (ran["codes"], [])


def test_what_was_exported_comes_back(folder: Path) -> None:
    before = open_weights(folder / "WEIGHTS")
    for name in ("from-hf", "from-gguf"):
        after = open_weights(folder / name)
        assert (after.settings, after.text_tokenizer_hash) == (before.settings, before.text_tokenizer_hash)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_transformers_runs_as_the_page_says(page: str, folder: Path, ran: dict[str, Any], capsys) -> None:
    exec(compile(blocks(section(page, "transformers"), "python"), "transformers", "exec"), ran)
    expected = report_ids(folder)
    assert len(expected) > 5
    assert ended(open_weights(folder / "WEIGHTS").settings.vocabulary, ran["with_transformers"]) == expected
    assert capsys.readouterr().out.strip() == ran["tokenizer"].decode(expected).strip()


def test_llama_cpp_runs_as_the_page_says(page: str, folder: Path, ran: dict[str, Any]) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make peers does it")
    exec(compile(blocks(section(page, "llama.cpp"), "python"), "llama.cpp", "exec"), ran)
    tokenizer = open_weights(folder / "WEIGHTS").load_text_tokenizer()
    assert tokenizer is not None
    assert ran["made"]["choices"][0]["text"] == tokenizer.decode(report_ids(folder))
    assert ran["made"]["choices"][0]["finish_reason"] == "stop"


def test_the_python_of_vllm_is_python(page: str) -> None:
    # vLLM itself does not run here, and the page says so.
    compile(blocks(section(page, "vLLM"), "python"), "vLLM", "exec")
    assert "**Not run here**" in section(page, "vLLM")
