from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_standin import Hub, Server
from transformers import PhiForCausalLM

from chexmix_cli.__main__ import run
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.init import init_decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import build, read_preset
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import open_weights, save_model
from chexmix_cli.core.weights.hub.registry import RELEASED_ENTRY, registry

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def chexmix_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "chexmix-home"
    monkeypatch.setenv("CHEXMIX_HOME", str(folder))
    return folder


@pytest.fixture
def debug_dir(tmp_path: Path) -> Path:
    """Return weights of the debug preset's size."""
    settings = build(ModelSettings, read_preset("model", "debug"))
    decoder = Decoder(settings.decoder)
    init_decoder(decoder, torch.Generator().manual_seed(0))
    tokenizer = registry()["chexmix-mini"].directory / "tokenizer.json"
    save_model(tmp_path / "debug", settings, decoder=decoder, vqgan=Vqgan(settings.vqgan), tokenizer_file=tokenizer)
    return tmp_path / "debug"


def _call(capsys: Capture, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    code = run(["weights", *arguments])
    captured = capsys.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_list_gives_a_record_a_model(capsys: Capture) -> None:
    code, records, errors = _call(capsys, "list")
    assert code == 0
    assert errors == ""
    assert [record["id"] for record in records] == ["chexmix-mini", "chexmix"]
    assert records[1]["is_here"] is False
    assert records[1]["licence"] == "CheXmix Research License"


@pytest.mark.parametrize("name", ["info", "inspect"])
def test_info_gives_settings_and_sizes(capsys: Capture, debug_dir: Path, name: str) -> None:
    code, [record], _ = _call(capsys, name, str(debug_dir))
    assert code == 0
    assert (record["id"], record["status"]) == ("debug", "ok")
    assert record["settings"]["decoder"]["hidden_size"] == 32
    assert record["fingerprint"] == open_weights(debug_dir).fingerprint


def test_check_passes_and_fails_with_every_problem(capsys: Capture, debug_dir: Path) -> None:
    code, [record], _ = _call(capsys, "check", str(debug_dir))
    assert (code, record["status"]) == (0, "ok")
    assert {check["name"]: check["status"] for check in record["checks"]}["text tokenizer"] == "ok"
    (debug_dir / "tokenizer.json").write_text("{}")
    (debug_dir / "config.json").write_text("{}")
    code, [record], errors = _call(capsys, "check", str(debug_dir))
    assert (code, record["status"], record["error"]["code"]) == (1, "error", "WEIGHTS")
    assert "settings files: " in record["error"]["message"]
    assert "text tokenizer: " in record["error"]["message"]
    assert "2 of 10 checks failed" in errors


def test_convert_makes_the_released_layout_describe_itself(capsys: Capture, tmp_path: Path, shared: Path) -> None:
    official, out = shared / "reference" / "official-tiny", tmp_path / "out"
    code, [record], _ = _call(capsys, "convert", str(official), "-o", str(out))
    assert code == 0
    assert {Path(file["path"]).name for file in record["files"]} == {path.name for path in out.iterdir()}
    assert open_weights(out).settings == open_weights(official).settings
    code, [record], _ = _call(capsys, "convert", str(official / "vqgan.ckpt"), "-o", str(tmp_path / "one"))
    assert [Path(file["path"]).name for file in record["files"]] == ["vqgan.safetensors", "vqgan.yaml"]
    assert len(record["files"][0]["sha256"]) == 64


@pytest.mark.parametrize(
    ("gone", "said"),
    [("vqgan", "has no image tokenizer (vqgan.safetensors)"), ("model", "has no decoder (model.safetensors)")],
)
def test_convert_says_which_network_is_missing(
    capsys: Capture, tmp_path: Path, debug_dir: Path, gone: str, said: str
) -> None:
    half, out = tmp_path / "half", tmp_path / "out"
    shutil.copytree(debug_dir, half)
    (half / f"{gone}.safetensors").unlink()
    code, [record], stderr = _call(capsys, "convert", str(half), "-o", str(out))
    assert (code, not (out / f"{gone}.safetensors").exists()) == (0, True)
    assert f"{half} {said}: none is written" in stderr
    # One file by its name is all that is asked for.
    _, _, stderr = _call(capsys, "convert", record["files"][0]["path"], "-o", str(tmp_path / "one"))
    assert stderr == ""
    _, _, stderr = _call(capsys, "convert", str(debug_dir), "-o", str(tmp_path / "whole"))
    assert stderr == ""


def test_export_makes_what_transformers_loads(capsys: Capture, tmp_path: Path, debug_dir: Path) -> None:
    code, _, _ = _call(
        capsys, "export", str(debug_dir), "--format", "hf", "-o", str(tmp_path / "hf"), "--dtype", "bfloat16"
    )
    assert code == 0
    phi = PhiForCausalLM.from_pretrained(tmp_path / "hf")
    weight = open_weights(debug_dir).load_decoder("cpu", torch.float32).head.weight
    assert torch.equal(phi.lm_head.weight, weight.bfloat16())


def test_fetch_shows_the_licence_and_wants_it_accepted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, chexmix_home: Path, shared: Path
) -> None:
    names = ("model.safetensors", "vqgan.ckpt", "config.json", "vqgan.yaml")
    entry = registry()[RELEASED_ENTRY]
    hub = Hub.of_directory(str(entry.repository), shared / "reference" / "official-tiny", names)
    with Server(hub) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        code, records, errors = _call(capsys, "fetch", "chexmix")
        assert (code, records, hub.requests) == (2, [], [])
        assert "non-commercial research use only" in errors
        assert "Chameleon Research License" in errors
        assert "--accept-licence" in errors
        code, [record], errors = _call(capsys, "fetch", "chexmix", "--accept-licence")
    assert code == 0
    assert "CheXmix Research License" in errors
    assert {Path(file["path"]).parent for file in record["files"]} == {chexmix_home / "weights" / "chexmix"}
    code, [record], errors = _call(capsys, "info", "chexmix")
    assert (code, record["id"]) == (0, "chexmix")
    assert "These weights come under the CheXmix Research License" in errors
    assert _call(capsys, "list")[1][1]["is_here"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("info", "nowhere"), 1, "no such weights"),
        (("fetch", "nothing"), 1, "no model 'nothing'; expected chexmix-mini, chexmix"),
        (("fetch", "chexmix-mini"), 1, "is part of the installation"),
        (("export", "chexmix-mini", "-o", "out", "--format", "onnx"), 2, "'onnx' is not a format; expected hf, gguf"),
        (("export", "chexmix-mini", "-o", "out"), 1, "decoder.rope_grid is 28, which a Phi of other programs cannot"),
        (("export", "chexmix-mini", "-o", "out", "--quantize", "q8_0"), 2, "expected --format gguf"),
        (("export", "chexmix-mini", "-o", "out", "--format", "gguf", "--quantize", "int4"), 2, "expected q8_0"),
        (
            ("export", "chexmix-mini", "-o", "o", "--format", "gguf", "--quantize", "q8_0", "--dtype", "float16"),
            2,
            "leaves nothing for --dtype to say",
        ),
        (("export", "chexmix-mini", "-o", "o", "--format", "gguf", "--max-shard-size", "5GB"), 2, "is one file"),
        (("convert", "chexmix-mini", "-o", "out", "--max-shard-size", "5"), 2, "'5' is no size; expected such as 5GB"),
        (("convert", "chexmix-mini", "-o", "out", "--dtype", "int4"), 2, "'int4' is not a dtype"),
        (("convert", "chexmix"), 2, "--out"),
        (("info", "chexmix"), 1, "chexmix weights fetch chexmix --accept-licence"),
    ],
)
def test_mistakes_are_named_and_have_their_exit_code(
    capsys: Capture, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, records, errors = _call(capsys, *arguments)
    assert (found, records) == (code, [])
    assert message in errors


def test_a_terminal_gets_tables(capsys: Capture, monkeypatch: pytest.MonkeyPatch, debug_dir: Path) -> None:
    monkeypatch.setattr("chexmix_cli.commands.weights.group.Writer", _TextWriter)
    monkeypatch.setenv("COLUMNS", "200")
    for arguments, expected in (
        (("list",), "not fetched"),
        (("info", str(debug_dir)), "decoder.hidden_size"),
        (("check", str(debug_dir)), "text tokenizer"),
        (("convert", str(debug_dir), "-o", str(debug_dir)), "model.safetensors"),
    ):
        assert run(["weights", *arguments]) == 0
        assert expected in capsys.readouterr().out


class _TextWriter:
    """A Writer that believes it has a terminal."""

    is_text = True

    def __init__(self, is_json: bool) -> None:
        assert not is_json

    def show(self, text: str) -> None:
        sys.stdout.write(text)


def test_list_and_check_in_a_process_of_their_own(debug_dir: Path, repository: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = (
        "import sys; from chexmix_cli.__main__ import run; run(['weights', 'list']); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repository, env=environment, capture_output=True)
    path = debug_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    command = [sys.executable, "-m", "chexmix_cli", "weights", "check", str(debug_dir)]
    result = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "is cut short" in json.loads(result.stdout)["error"]["message"]
