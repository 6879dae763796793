from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from chexmix_cli.core.errors import ExitCode, SettingsError, kind_of
from chexmix_cli.core.settings.checks import require
from chexmix_cli.core.settings.inference import GenerateReportSettings, TokenizeSettings
from chexmix_cli.core.settings.load import (
    build,
    parse_assignments,
    read_preset,
    read_toml,
    resolve,
    to_dict,
)
from chexmix_cli.core.settings.training import STAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    size: int
    rate: float = 0.5
    mode: Literal["fast", "slow"] = "fast"

    def __post_init__(self) -> None:
        require(self.size > 0, "inner.size", self.size, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    inner: Inner
    name: str = "root"
    is_on: bool = True
    limit: int | None = None
    bounds: tuple[float, ...] = (0.0, 1.0)
    table: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()


BASE = ("preset", {"inner": {"size": 4}})


def test_later_layers_win_value_by_value():
    resolved = resolve(
        Root,
        [
            ("preset", {"name": "p", "inner": {"size": 1, "rate": 0.1}, "is_on": False}),
            ("--config c.toml", {"inner": {"size": 2, "mode": "slow"}, "name": "c"}),
            ("--set", {"inner": {"size": 3}}),
            ("flag", {"name": "f"}),
        ],
    )
    assert resolved.settings == Root(inner=Inner(size=3, rate=0.1, mode="slow"), name="f", is_on=False)
    assert resolved.origins == {
        "name": "flag",
        "inner.size": "--set",
        "inner.rate": "preset",
        "inner.mode": "--config c.toml",
        "is_on": "preset",
    }


def test_layers_are_not_changed():
    layer = {"inner": {"size": 1}}
    resolve(Root, [("one", layer), ("two", {"inner": {"size": 2, "rate": 0.2}})])
    assert layer == {"inner": {"size": 1}}


def test_resolved_settings_are_json_with_their_origins_and_build_again():
    resolved = resolve(Root, [BASE, ("--set", {"bounds": [0.2, 0.3], "table": {"a": "b"}})])
    shown = json.loads(json.dumps(to_dict(resolved.settings), default=str))
    assert shown["inner"] == {"size": 4, "rate": 0.5, "mode": "fast"}
    assert shown["bounds"] == [0.2, 0.3]
    assert build(Root, shown) == resolved.settings
    real = resolve(GenerateReportSettings, [("--set", {"decode": {"top_p": 0.9}})])
    shown = json.loads(real.to_json())
    assert shown["set_by"] == {"decode.top_p": "--set"}
    assert shown["settings"]["decode"]["top_p"] == 0.9
    assert build(GenerateReportSettings, shown["settings"]) == real.settings


@pytest.mark.parametrize(
    ("values", "where", "hint"),
    [
        ({"nam": "x"}, "nam", "did you mean 'name'?"),
        ({"inner": {"size": 1, "raet": 0.1}}, "inner.raet", "did you mean 'rate'?"),
        ({"zzz": 1}, "zzz", None),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(values, where, hint):
    with pytest.raises(SettingsError, match=f"{where}: unknown setting; expected ") as caught:
        resolve(Root, [BASE, ("--set", values)])
    assert caught.value.hint == hint
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"size": "4"}}, "inner.size: '4' is a str; expected an int"),
        ({"inner": {"size": 4.0}}, "inner.size: 4.0 is a float; expected an int"),
        ({"inner": {"size": True}}, "inner.size: True is a bool; expected an int"),
        ({"inner": {"rate": False}}, "inner.rate: False is a bool; expected a float"),
        ({"inner": {"rate": "fast"}}, "inner.rate: 'fast' is a str"),
        ({"inner": {"rate": float("nan")}}, "inner.rate: is nan; expected a finite number"),
        ({"inner": {"rate": float("inf")}}, "inner.rate: is inf"),
        ({"inner": 3}, "inner: 3 is an int; expected a section"),
        ({"name": {"first": "x"}}, "name: {'first': 'x'} is a dict; expected a str"),
        ({"name": 3}, "name: 3 is an int; expected a str"),
        ({"is_on": 1}, "is_on: 1 is an int; expected a bool"),
        ({"limit": "many"}, "limit: 'many' is a str; expected an int"),
        ({"bounds": 0.5}, "bounds: 0.5 is a float; expected a list"),
        ({"bounds": [0.5, "x"]}, "bounds: 'x' is a str; expected a float"),
        ({"table": [1]}, r"table: \[1\] is a list; expected a table"),
    ],
)
def test_a_value_of_another_type_is_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        resolve(Root, [BASE, ("--set", values)])


@pytest.mark.parametrize("values", [3, "inner", ["inner"], None])
def test_what_is_no_section_at_all_is_refused_by_name(values):
    with pytest.raises(SettingsError, match=rf"^Root: .+ is {kind_of(values)}; expected a section$"):
        build(Root, values)
    with pytest.raises(SettingsError, match=rf"^file: .+ is {kind_of(values)}; expected a section$"):
        build(Root, values, where="file")


def test_values_are_taken_as_their_type():
    values = {"inner": {"rate": 1}, "limit": 7, "bounds": [0, 1], "folder": "a/b", "table": {"k": "v"}}
    settings = resolve(Root, [BASE, ("--set", values)]).settings
    assert (settings.inner.rate, type(settings.inner.rate)) == (1.0, float)
    assert (settings.limit, settings.bounds, settings.folder) == (7, (0.0, 1.0), Path("a/b"))
    assert settings.table == {"k": "v"}
    for nothing in ("none", None):
        assert resolve(Root, [BASE, ("--set", {"limit": nothing})]).settings.limit is None


def test_a_choice_is_one_of_those_offered():
    with pytest.raises(SettingsError, match="inner.mode: 'fats' is not a choice; expected fast, slow") as caught:
        resolve(Root, [BASE, ("--set", {"inner": {"mode": "fats"}})])
    assert caught.value.hint == "did you mean 'fast'?"


def test_the_settings_own_checks_speak():
    with pytest.raises(SettingsError, match="inner.size: is 0; expected a positive number"):
        resolve(Root, [("--set", {"inner": {"size": 0}})])


def test_what_has_no_default_must_be_given():
    with pytest.raises(SettingsError, match="inner: missing size; expected a value for each"):
        resolve(Root, [])


def test_settings_cannot_be_changed_afterwards():
    settings = resolve(Root, [BASE]).settings
    with pytest.raises(FrozenInstanceError):
        settings.name = "x"


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ([], {}),
        (["a=1"], {"a": 1}),
        (["a.b=1", "a.c=2.5", "d=true"], {"a": {"b": 1, "c": 2.5}, "d": True}),
        (["a=text", "b=two words", "c="], {"a": "text", "b": "two words", "c": ""}),
        (['a="1"', "b=[1, 2]", "c = 3 "], {"a": "1", "b": [1, 2], "c": 3}),
        (["a=x=y"], {"a": "x=y"}),
        (["a=1", "a=2"], {"a": 2}),
        (["a=C:\\films\\new"], {"a": "C:\\films\\new"}),
    ],
)
def test_assignments_are_toml_values_or_bare_strings(assignments, expected):
    assert parse_assignments(assignments) == expected


@pytest.mark.parametrize("assignment", ["a", "=1", "a.=1", ".a=1", "a..b=1", ""])
def test_what_is_no_assignment_is_refused(assignment):
    with pytest.raises(SettingsError, match="is not an assignment; expected section.key=value"):
        parse_assignments([assignment])


def test_a_key_is_a_value_or_a_section_not_both():
    with pytest.raises(SettingsError, match="'a.b' is set both as a value and as a section"):
        parse_assignments(["a=1", "a.b=2"])


def test_a_configuration_file_is_read(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[inner]\nsize = 9\nmode = "slow"\n', encoding="utf-8")
    assert resolve(Root, [("file", read_toml(path))]).settings.inner == Inner(size=9, mode="slow")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such configuration file"), (b"a = ", "not valid TOML"), (b"a = '\xff'", "not valid TOML")],
)
def test_a_configuration_file_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"c\.toml: {message}"):
        read_toml(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_toml(tmp_path)


def test_an_unknown_preset_is_named_with_those_there_are():
    with pytest.raises(SettingsError, match="unknown preset 'minni'; expected debug, mini, phi2") as caught:
        read_preset("model", "minni")
    assert caught.value.hint == "did you mean 'mini'?"


@pytest.mark.parametrize("root", [TokenizeSettings, GenerateReportSettings])
def test_inference_settings_need_nothing(root):
    assert resolve(root, []).settings == root()


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_stage_without_its_numbers_says_which(stage):
    with pytest.raises(SettingsError, match="expected a value for each"):
        resolve(STAGES[stage], [("preset", {"model": read_preset("model", "mini")})])
