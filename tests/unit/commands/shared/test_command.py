"""What ``@command`` makes of a function: its parameters, its settings, what is given to it."""

from __future__ import annotations

import inspect
import json
import signal
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer

from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.help import COMMON_OPTIONS
from chexmix_cli.commands.shared.options import RunOptions, Sets
from chexmix_cli.core.settings.load import Layer, Resolved, resolve


@dataclass(frozen=True, kw_only=True)
class Fill:
    samples: int = 1
    choice: str = "best"


@dataclass(frozen=True, kw_only=True)
class Settings:
    fill: Fill = Fill()
    ratios: tuple[float, ...] = ()


Samples = Annotated[int | None, typer.Option("--samples"), Sets("fill.samples"), Sets("fill.choice", to="sample")]
Ratios = Annotated[
    str | None, typer.Option("--ratios"), Sets("ratios", read=lambda text: [float(part) for part in text.split(",")])
]
CALLS: list[tuple[Call[Any], dict[str, Any]]] = []


@command(Settings, "seed", "is_json")
def fill(call: Call[Settings], name: str, samples: Samples = None, ratios: Ratios = None) -> int:
    """Fill."""
    CALLS.append((call, {"name": name}))
    return 3


def with_name(name: str, layers: list[Layer]) -> Resolved[Settings]:
    return resolve(Settings, [("name", {"fill": {"choice": name}}), *layers])


@command(with_name)
def named(call: Call[Settings], name: str = "mine") -> int:
    """Fill as the name says."""
    CALLS.append((call, {"name": name}))
    return 0


def call_of(function: Any, **given: Any) -> Call[Any]:
    defaults = {one.name: one.default for one in inspect.signature(function).parameters.values()}
    CALLS.clear()
    function(**{**defaults, **given})
    return CALLS[0][0]


def test_own_parameters_stand_before_those_it_takes():
    parameters = inspect.signature(fill).parameters
    settings, always = ["config", "assignments", "show_config"], ["is_quiet", "is_verbose"]
    assert list(parameters) == ["name", "samples", "ratios", "seed", *settings, "is_json", *always, "typer_context"]
    assert parameters["seed"].annotation.__metadata__[0].rich_help_panel == COMMON_OPTIONS
    assert parameters["samples"].annotation.__metadata__[0].rich_help_panel is None
    assert fill.__doc__ == "Fill."


def test_a_flag_sets_its_settings_above_all_other_layers(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("ratios = [0.9]\n[fill]\nsamples = 2\nchoice = 'expected'\n")
    given = {"name": "x", "config": config, "assignments": ["fill.samples=3"]}
    assert call_of(fill, **given).settings == Settings(fill=Fill(samples=3, choice="expected"), ratios=(0.9,))
    given |= {"samples": 4, "ratios": "0.1,0.2"}
    assert call_of(fill, **given).settings == Settings(fill=Fill(samples=4, choice="sample"), ratios=(0.1, 0.2))


def test_options_are_as_given_and_others_have_their_defaults():
    call = call_of(fill, name="x", seed=7, is_json=True, is_quiet=True)
    assert call.options == RunOptions(seed=7, is_json=True, is_quiet=True)
    assert call.console.is_quiet


def test_the_settings_can_depend_on_flags_and_are_shown_in_place_of_the_command(capsys):
    assert call_of(named, name="yours").settings.fill.choice == "yours"
    CALLS.clear()
    defaults = {one.name: one.default for one in inspect.signature(named).parameters.values()}
    assert named(**{**defaults, "show_config": True}) == 0
    assert json.loads(capsys.readouterr().out)["set_by"] == {"fill.choice": "name"}
    assert CALLS == []


@pytest.mark.parametrize(("value", "expected"), [(None, []), (False, []), (0, [("k", 0)])])
def test_only_a_given_flag_sets_something(value, expected):
    from chexmix_cli.commands.shared.command import _own_flags

    kind = Annotated[Any, typer.Option("--k"), Sets("k")]
    parameter = inspect.Parameter("k", inspect.Parameter.KEYWORD_ONLY, annotation=kind)
    assert list(_own_flags([parameter], {"k": value})) == expected


@command(Settings, "is_json", seed="fill.samples")
def seeded(call: Call[Settings]) -> int:
    """Fill by a common option."""
    CALLS.append((call, {}))
    return 0


@pytest.mark.parametrize(
    ("words", "samples"), [([], 1), (["--set", "fill.samples=5"], 5), (["--set", "fill.samples=5", "--seed", "0"], 0)]
)
def test_a_common_option_can_stand_for_a_setting_where_it_is_given(words, samples):
    """Its default sets nothing, but the same value given does."""
    app = typer.Typer()
    app.command()(seeded)
    CALLS.clear()
    typer.main.get_command(app).main(args=words, standalone_mode=False)
    assert CALLS[0][0].settings.fill.samples == samples


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_whatever_asks_a_command_to_stop_ends_it_as_ctrl_c_does(monkeypatch, name):
    """So that temporary files go: the signal's own way would end the process where it stands."""
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"there is no {name} here")
    before = signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    reached = []

    @command(None)
    def stopped(call: Call[None]) -> int:
        """Stop."""
        try:
            signal.raise_signal(number)
        finally:
            reached.append("the end of a context")
        return 0

    try:
        with pytest.raises(KeyboardInterrupt):
            stopped(is_quiet=False, is_verbose=False, typer_context=None)
    finally:
        signal.signal(number, before)
    assert reached
