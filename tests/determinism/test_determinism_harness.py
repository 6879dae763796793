"""The harness sees what it is for: other bytes, ids, words and pictures; and its other run is another one."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from tests.determinism.compare import largest_difference, require_bytes
from tests.determinism.interpreter import OTHER_DAY, clock_library, other, usual

RECORD = {"id": "x", "token_ids": [3, 4], "report": "Clear, 2 films.", "probability": 0.25, "count": 3, "none": None}


def line(**changed):
    return json.dumps({**RECORD, **changed}).encode() + b"\n"


def picture(*, more=0):
    written = io.BytesIO()
    Image.fromarray(np.full((4, 4), 100 + more, np.uint8)).save(written, "PNG")
    return written.getvalue()


def page(content, said="0.25"):
    return f"<p>{said}</p><img src='data:image/png;base64,{base64.b64encode(content).decode()}'>".encode()


def test_bytes_are_held_but_for_what_is_listed():
    require_bytes({"stdout": line()}, {"stdout": line()})
    require_bytes({"m.jsonl": b'{"examples_per_s": 1.5}'}, {"m.jsonl": b'{"examples_per_s": 2.5}'})
    for one, two in [
        ({"stdout": line()}, {"stdout": line(probability=0.2500001)}),
        ({"a.png": picture()}, {"a.png": picture(more=1)}),
        ({"a": b""}, {"a": b"", "b": b""}),
        ({"m.jsonl": b'{"loss": 1.5}'}, {"m.jsonl": b'{"loss": 2.5}'}),
    ]:
        with pytest.raises(AssertionError):
            require_bytes(one, two)


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("stdout", line(), line(probability=0.25001)),
        ("a.png", picture(), picture(more=1)),
        ("a.html", page(picture()), page(picture(more=1), "0.2501")),
        ("a.csv", b"id,p\nx,0.25\n", b"id,p\nx,0.25001\n"),
        ("a.safetensors", save({"v": np.ones(3, np.float32)}), save({"v": np.ones(3, np.float32) * 1.0001})),
    ],
)
def test_rounding_is_none_of_the_differences(name, one, two):
    assert 0 < largest_difference({name: one}, {name: two}) < 0.005
    assert largest_difference({name: one}, {name: one}) == 0


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("stdout", line(), line(token_ids=[3, 5])),
        ("stdout", line(), line(token_ids=[3])),
        ("stdout", line(), line(report="Clear, 3 films.")),
        ("stdout", line(), line(probability=0.26)),
        ("stdout", line(), line(count=4)),
        ("stdout", line(), line(none=0)),
        ("stdout", line(), line() + line()),
        ("a.png", picture(), picture(more=2)),
        ("a.html", page(picture()), page(picture(), "0.3")),
        ("a.html", page(picture()), page(picture(more=2))),
        ("a.csv", b"id,p\nx,0.25\n", b"id,p\ny,0.25\n"),
        ("a.safetensors", save({"v": np.ones(3, np.int32)}), save({"v": np.arange(3, dtype=np.int32)})),
        ("a.bin", b"\xff\x00", b"\xff\x01"),
    ],
)
def test_all_else_is_a_difference(name, one, two):
    with pytest.raises(AssertionError):
        largest_difference({name: one}, {name: two})


_TELL = """
import json, os, sys, time
from datetime import datetime
from tests.determinism import program
if program.SHUFFLED in os.environ:
    program.shuffle_folders(int(os.environ[program.SHUFFLED]))
with os.scandir(sys.argv[1]) as entries:
    scanned = [entry.name for entry in entries]
told = [hash("x"), os.listdir(sys.argv[1]), scanned, time.time(), datetime.now().timestamp(), time.tzname]
print(json.dumps(told))
"""


def test_the_other_run_is_another_one(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.txt").touch()
    clock = clock_library(tmp_path)
    told = []
    for variables in (usual(tmp_path), other(tmp_path, clock)):
        done = subprocess.run(
            [sys.executable, "-c", _TELL, tmp_path], env=variables, capture_output=True, text=True, check=True
        )
        told.append(json.loads(done.stdout))
    one, another = told
    assert one[0] != another[0]
    assert sorted(one[1]) == sorted(another[1]) == sorted(another[2])
    assert len({tuple(one[1]), tuple(another[1]), tuple(another[2])}) == 3
    assert one[5] != another[5]
    for place in (3, 4):
        assert abs(one[place] - time.time()) < 3600
        moved_days = 0 if clock is None else OTHER_DAY
        assert abs(another[place] - time.time() - moved_days * 86_400) < 3600
