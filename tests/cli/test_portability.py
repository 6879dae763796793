"""Windows and macOS, as far as can be shown on another system: what only POSIX has stands behind guards."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from posix_blocked import MODULES, OS_CALLS, SIGNAL_CALLS, SIGNALS

PACKAGE = Path(__file__).resolve().parents[2] / "chexmix_cli"
FILES = sorted(PACKAGE.rglob("*.py"))
#: Where a name that Windows lacks is used, each behind a guard that was read: name of the file, name, guard.
GUARDED = {
    ("runtime.py", "resource", "except ModuleNotFoundError"),
    ("server.py", "SIGPIPE", 'hasattr(signal, "SIGPIPE")'),
}


def test_what_only_posix_has_is_guarded():
    found, sources = set(), {path.name: path.read_text(encoding="utf-8") for path in FILES}
    for path in FILES:
        name = path.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {(name, alias.name) for alias in node.names if alias.name in MODULES}
            elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
                found.add((name, node.module))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                unknown = {"signal": SIGNALS + SIGNAL_CALLS, "os": OS_CALLS}.get(node.value.id, ())
                if node.attr in unknown:
                    found.add((name, node.attr))
    assert found == {(name, used) for name, used, _ in GUARDED}
    for name, _, guard in GUARDED:
        assert guard in sources[name]


@pytest.mark.slow
def test_the_main_commands_run_without_what_only_posix_has(films, tmp_path):
    """In one process, as each start loads torch."""
    lines = [
        ["tokenize", str(films), "--json", "--set", "input.workers=1"],
        ["tokenize", str(films), "-o", str(tmp_path / "shards")],
        ["classify", str(films), "--json"],
        ["generate-report", str(films), "--json", "--set", "decode.max_new_tokens=8"],
    ]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("posix_blocked.py")), json.dumps(lines)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == json.dumps([0] * len(lines)), done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert all(record["status"] == "ok" for record in records)
    assert any("report" in record for record in records)
