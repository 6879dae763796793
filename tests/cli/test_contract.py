"""What every command promises: codes, streams, flags, start-up."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import typer

from chexmix_cli.app import app
from chexmix_cli.commands.later import LATER

COMMON = {"--weights", "--device", "--dtype", "--config", "--set", "--show-config", "--json", "--fail-fast"}
COMMON |= {"--provenance", "--keep-uids", "--quiet", "-q", "--verbose", "-v", "--preset"}
TRAINING = {"--config", "--set", "--show-config", "--quiet", "-q", "--verbose", "-v", "--preset"}
FLAGS = {
    "tokenize": COMMON | {"--no-codes"},
    "generate-report": COMMON | {"--seed", "--picture"},
    "pretrain": TRAINING | {"--stage", "--data", "--out", "--init", "--resume"},
}


def test_help_names_every_command_and_loads_nothing_heavy(repository):
    code = (
        "import sys; from chexmix_cli.__main__ import run; code = run(['--help']);"
        "heavy = {'torch', 'numpy', 'PIL', 'pydicom', 'matplotlib', 'sklearn', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("tokenize", "pretrain", "finetune", "generate-report", "classify", "inpaint", "retrieve", "evaluate"):
        assert name in done.stdout
    assert "weights" in done.stdout
    assert "plan" in done.stdout


def test_help_is_fast(repository):
    """The promise is 0.3 s; the best of five runs counts, because a test machine may be busy."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "chexmix_cli", "--help"], capture_output=True, cwd=repository, check=True)
        times.append(time.perf_counter() - started)
    print(f"chexmix --help: best of five {min(times):.2f} s")
    # Twice the promise: an import of torch alone takes longer than that.
    assert min(times) < 0.6


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_flags_are_frozen(name):
    """A new knob is a setting, not a flag; changing this list is a decision."""
    command = typer.main.get_command(app).commands[name]
    found = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")} - {"--help"}
    assert found == FLAGS[name]


@pytest.mark.parametrize("name", sorted(LATER))
def test_what_is_not_built_says_so_and_fails(call, name):
    result = call(name, "something", "--flag", "value")
    assert result.code == 1
    assert result.stdout == ""
    assert f"`chexmix {name}` is not built yet" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenize"], "IN: no input"),
        (["pretrain", "--stage", "1"], "Missing option"),
        (["generate-report", "x", "--seed", "-1"], "--seed"),
        (["tokenize", "x", "--bogus"], "No such option"),
        (["nonsense"], "No such command"),
        (["tokenize", "x", "--set", "input.prest=1"], "did you mean 'preset'?"),
        (["tokenize", "x", "--set", "imput.preset=1"], "did you mean 'input'?"),
        (["tokenize", "x", "--set", "input.preset"], "is not an assignment"),
        (["tokenize", "x", "--set", "input.batch_size=0"], "a positive number"),
        (["tokenize", "x", "--set", "input.views=both"], "expected frontal, all"),
        (["tokenize", "x", "--config", "nowhere.toml"], "no such configuration file"),
        (["tokenize", "x", "-"], "- stands beside other inputs"),
        (["generate-report", "x", "--set", "decode.min_new_tokens=300"], "decode.min_new_tokens"),
        (["generate-report", "x", "--set", "decode.temperature=hot"], "decode.temperature"),
        (["pretrain", "--stage", "3", "--data", "m", "--out", "o"], "unknown stage '3'"),
        (["pretrain", "--stage", "1", "--preset", "minni", "--data", "m", "--out", "o"], "did you mean 'mini'?"),
        (
            ["pretrain", "--stage", "2", "--data", "m", "--out", "o", "--set", "masking.image_ratio=[0.9,0.1]"],
            "masking",
        ),
        (["pretrain", "--stage", "1", "--data", "m", "--out", "o", "--set", "masking.loss=all"], "unknown setting"),
    ],
)
def test_wrong_usage_and_settings_exit_2_with_the_reason(call, arguments, message):
    result = call(*arguments)
    assert result.code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_show_config_says_where_each_value_comes_from(call, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("[input]\nbatch_size = 7\n[decode]\ntop_p = 0.5\n")
    result = call(
        "generate-report", "x", "--config", config, "--set", "decode.top_p=0.9", "--preset", "voi", "--show-config"
    )
    shown = json.loads(result.stdout)
    assert shown["settings"]["input"]["batch_size"] == 7
    assert shown["settings"]["decode"]["top_p"] == 0.9
    assert shown["set_by"] == {
        "input.batch_size": "--config mine.toml",
        "decode.top_p": "--set",
        "input.preset": "flag",
    }


def test_missing_weights_exit_1_with_what_there_is(call, films):
    result = call("tokenize", films, "--weights", "no-such-model")
    assert result.code == 1
    assert "no such weights" in result.stderr
    assert "chexmix-mini" in result.stderr


def test_a_missing_gpu_exits_4(call, films, debug_weights):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = call("tokenize", films, "--weights", debug_weights, "--device", "cuda")
    assert result.code == 4
    assert "--device cpu" in result.stderr.split("hint:")[1]


def test_a_bug_exits_70_without_values(call, monkeypatch):
    import chexmix_cli.core.settings.load as load

    def broken(assignments):
        raise RuntimeError("Zephyranthes")

    monkeypatch.setattr("chexmix_cli.commands.options.parse_assignments", broken)
    assert load is not None
    result = call("tokenize", "x")
    assert result.code == 70
    assert "unexpected RuntimeError" in result.stderr
    assert "Zephyranthes" not in result.stderr


def test_interruption_exits_130(call, monkeypatch):
    def interrupted(assignments):
        raise KeyboardInterrupt

    monkeypatch.setattr("chexmix_cli.commands.options.parse_assignments", interrupted)
    assert call("tokenize", "x").code == 130


def test_a_reader_that_stops_early_ends_the_command_silently(repository, films, debug_weights):
    command = f"{sys.executable} -m chexmix_cli tokenize {films} --weights {debug_weights} --set input.batch_size=1"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1"], capture_output=True, text=True, cwd=repository, check=False
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "ok"
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
