"""``tools/record_outputs.py`` sees every difference, and no other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import record_outputs  # noqa: E402


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / "one/files").mkdir(parents=True, exist_ok=True)
        (folder / "one" / name).write_text(text)
    return folder


def test_what_no_two_runs_share_is_replaced_and_nothing_else():
    paths = {"work": Path("/a/work"), "checkout": Path("/b")}
    assert record_outputs.normalise("/a/work/in/x.png and /b/y.py", paths) == "<work>/in/x.png and <checkout>/y.py"
    line = '{"step": 3, "loss": 6.9054, "examples_per_s": 69.71}'
    assert record_outputs.normalise(line, paths) == '{"step": 3, "loss": 6.9054, "examples_per_s": <varies>}'
    line = '{"tokens_per_s": 9600.5, "mfu": 0.4, "left_s": 3.2e-05}'
    varies = '{"tokens_per_s": <varies>, "mfu": <varies>, "left_s": <varies>}'
    assert record_outputs.normalise(line, paths) == varies
    assert record_outputs.normalise("mfu 0.43  left 3 h 2 min", paths) == "mfu <varies>  left <varies>"
    said = "step 3  loss 6.905  grad_norm 0.766  examples_per_s 69.71"
    assert record_outputs.normalise(said, paths) == "step 3  loss 6.905  grad_norm 0.766  examples_per_s <varies>"


def test_text_is_kept_and_all_else_hashed():
    assert record_outputs.described("µ\n".encode(), {}) == "µ\n"
    assert record_outputs.described(b"\xff", {}).startswith("1 bytes, sha256 a8100ae6aa1940d0b663")
    assert record_outputs.described(b"\0", {}).startswith("1 bytes, sha256 ")


def test_every_difference_is_shown_where_it_is(tmp_path, capsys):
    codes = ", ".join(map(str, range(300)))
    before = write(tmp_path / "a", exit="0\n", stdout=f'{{"codes": [{codes}], "id": "x"}}\n', stderr="same\n", old="")
    after = write(tmp_path / "b", exit="3\n", stdout=f'{{"codes": [{codes}], "id": "y"}}\n', stderr="same\n", new="")
    assert record_outputs.main(["compare", str(before), str(before)]) == 0
    assert record_outputs.main(["compare", str(before), str(after)]) == 1
    said = capsys.readouterr().out
    assert '- "id": "x"\n+ "id": "y"' in said
    assert "7\n" not in said, "codes that are the same are not shown"
    assert "-0\n+3\n" in said
    assert f"one/new\nonly in {after}" in said
    assert f"one/old\nonly in {before}" in said
    assert "stderr" not in said
    (after / "one").rename(after / "two")
    assert list(record_outputs.differences(before, after)) == [
        ("one", f"only in {before}"),
        ("two", f"only in {after}"),
    ]


@pytest.mark.parametrize(("before", "after"), [('{"a": 1}\n', '{"a":1}\n'), ("a\n", "a\r\n"), ("a\n", "a")])
def test_white_space_is_a_difference_too(tmp_path, before, after):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, text in zip(folders, (before, after), strict=True):
        (folder / "one").mkdir(parents=True)
        (folder / "one/stdout").write_bytes(text.encode())
    ((name, how),) = record_outputs.differences(*folders)
    assert name == "one/stdout"
    assert len(how.splitlines()) > 2


def test_the_table_of_commands_is_read_and_a_bad_line_refused(tmp_path):
    commands = record_outputs.read_commands(ROOT / "tools/recorded_commands.txt")
    assert commands["data-info"] == "chexmix data info ../tokenize-shards/shards"
    bad = tmp_path / "commands.txt"
    for text in ("chexmix tokenize\n", "a: chexmix\na: chexmix\n", "work: chexmix\n"):
        bad.write_text(text)
        with pytest.raises(ValueError, match="a name of its own"):
            record_outputs.read_commands(bad)
