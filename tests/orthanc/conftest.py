"""A real Orthanc on this machine, with a configuration and a storage of its own."""

from __future__ import annotations

import gc
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dicom_peers import allow_open_sockets

#: Where Debian puts the plugin, and other builds.
_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins", "/usr/lib/orthanc/plugins")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.orthanc)
            allow_open_sockets(item)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Leave no socket to the end of the run, where nothing ignores it."""
    yield
    gc.collect()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Orthanc:
    """A running Orthanc.

    Attributes:
        dicom_port: of its storage SCP, AE title ``ORTHANC``.
        url: of its HTTP server; DICOMweb is below ``/dicom-web``.
        node_port: where it sends radiographs to, AE title ``CHEXMIX``.
    """

    dicom_port: int
    url: str
    node_port: int

    def get(self, path: str) -> Any:
        """Return what DICOMweb answers, as JSON."""
        request = urllib.request.Request(f"{self.url}/dicom-web/{path}", headers={"Accept": "application/dicom+json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else []

    def wait_for(self, path: str, condition: Callable[[Any], bool], timeout_s: float = 120) -> Any:
        """Return what DICOMweb answers once a condition holds of it."""
        limit = time.monotonic() + timeout_s
        while not condition(found := self.get(path)):
            assert time.monotonic() < limit, found
            time.sleep(0.2)
        return found


@pytest.fixture
def orthanc(tmp_path: Path, repository: Path) -> Iterator[Callable[..., Orthanc]]:
    """Return a function that starts an Orthanc, which sends on what it is sent unless told otherwise."""
    program = shutil.which("Orthanc")
    plugins = [path for folder in _PLUGINS if (path := Path(folder, "libOrthancDicomWeb.so")).exists()]
    if program is None or not plugins:
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb)")
    started: list[subprocess.Popen[bytes]] = []
    page = (repository / "docs" / "pacs.md").read_text(encoding="utf-8")
    script = page.split("```lua\n")[1].split("```")[0]
    documented = json.loads(page.split("```json\n")[1].split("```")[0])

    def start(*, routes: bool = True) -> Orthanc:
        http, dicom, node = free_port(), free_port(), free_port()
        (tmp_path / "route.lua").write_text(script if routes else "")
        settings = {
            **documented,
            "Name": "test",
            "StorageDirectory": str(tmp_path / "storage"),
            "IndexDirectory": str(tmp_path / "storage"),
            "HttpPort": http,
            "DicomPort": dicom,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {
                name: [title, host, node] for name, (title, host, _) in documented["DicomModalities"].items()
            },
            "LuaScripts": [str(tmp_path / "route.lua")],
            "Plugins": [str(plugins[0])],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (tmp_path / "orthanc.json").write_text(json.dumps(settings))
        with (tmp_path / "orthanc.log").open("wb") as log:
            started.append(subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=log))
        found = Orthanc(dicom, f"http://127.0.0.1:{http}", node)
        limit = time.monotonic() + 60
        while True:
            with suppress(urllib.error.URLError, ConnectionError):
                found.get("studies")
                return found
            assert started[-1].poll() is None, (tmp_path / "orthanc.log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.1)

    yield start
    for process in started:
        process.terminate()
        process.wait(30)
