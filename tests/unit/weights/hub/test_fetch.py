from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_standin import COMMIT, Hub, Server

from chexmix_cli.core.errors import ExitCode, MachineError, SettingsError, WeightsError
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.hub import fetch as fetch_module
from chexmix_cli.core.weights.hub.fetch import fetch
from chexmix_cli.core.weights.hub.lock import read_lock
from chexmix_cli.core.weights.hub.registry import EMBEDDED, RELEASED_ENTRY, EntryFile, ModelEntry, registry
from chexmix_cli.core.weights.verify import verify

NAMES = ("model.safetensors", "vqgan.ckpt", "config.json", "vqgan.yaml")


@pytest.fixture
def entry() -> ModelEntry:
    return registry()[RELEASED_ENTRY]


@pytest.fixture
def hub(shared: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve the reference weights as the released repository."""
    hub = Hub.of_directory(str(entry.repository), shared / "reference" / "official-tiny", NAMES)
    monkeypatch.setattr(fetch_module, "_WAIT_S", 0.0)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with Server(hub) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield hub


def test_what_is_fetched_is_locked_checked_and_loads(hub: Hub, entry: ModelEntry, chexmix_home: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    lock = fetch(entry, accept_licence=True, progress=lambda *step: seen.append(step))
    directory = chexmix_home / "weights" / "chexmix"
    assert entry.directory == directory
    assert {path.name for path in directory.iterdir()} == {*NAMES, "chexmix.lock.json"}
    for name, content in hub.files.items():
        assert (directory / name).read_bytes() == content
        assert lock.files[name].sha256 == hashlib.sha256(content).hexdigest()
        assert (name, len(content), len(content)) in seen
    assert (lock.repository, lock.commit, lock.licence) == (entry.repository, COMMIT, entry.licence.name)
    assert read_lock(directory) == lock
    weights = open_weights("chexmix")
    assert (weights.name, weights.entry) == ("chexmix", entry)
    weights.load_decoder("cpu", torch.float32)
    assert {check.status for check in verify("chexmix")} == {"ok", "absent"}


def test_nothing_is_asked_of_the_network_without_the_licence(hub: Hub, entry: ModelEntry, chexmix_home: Path) -> None:
    with pytest.raises(SettingsError, match="CheXmix Research License of chexmix has not been accepted") as caught:
        fetch(entry, accept_licence=False)
    assert caught.value.exit_code == ExitCode.USAGE
    assert hub.requests == []
    assert not chexmix_home.exists()


def test_a_licence_is_accepted_once(hub: Hub, entry: ModelEntry) -> None:
    fetch(entry, accept_licence=True)
    fetch(entry, accept_licence=False)
    other = dataclasses.replace(entry, licence=dataclasses.replace(entry.licence, name="Another"))
    with pytest.raises(SettingsError, match="Another"):
        fetch(other, accept_licence=False)


def test_fetching_again_asks_for_no_file(hub: Hub, entry: ModelEntry) -> None:
    fetch(entry, accept_licence=True)
    hub.requests.clear()
    fetch(entry, accept_licence=True)
    assert [path for path, _ in hub.requests] == [f"GET /api/models/{entry.repository}/revision/{COMMIT}"]


def test_a_broken_transfer_goes_on_within_one_call(hub: Hub, entry: ModelEntry) -> None:
    hub.cut_after, hub.cuts_left = {"vqgan.ckpt": 5_000_000}, 1
    fetch(entry, accept_licence=True)
    assert hub.ranges("vqgan.ckpt") == [None, "bytes=5000000-"]


def test_an_interrupted_fetch_goes_on_in_the_next_call(hub: Hub, entry: ModelEntry) -> None:
    hub.cut_after, hub.cuts_left = {"vqgan.ckpt": 5_000_000}, 100
    with pytest.raises(WeightsError, match="the transfer stopped") as caught:
        fetch(entry, accept_licence=True)
    assert caught.value.hint == "the same command goes on where it stopped"
    assert not (entry.directory / "vqgan.ckpt").exists()
    partial = entry.directory / f".vqgan.ckpt.{COMMIT[:12]}.partial"
    assert partial.stat().st_size == 5_000_000
    assert "model.safetensors" in read_lock(entry.directory).files
    (entry.directory / ".vqgan.ckpt.ffffffffffff.partial").write_bytes(b"of another commit")
    hub.cuts_left = 0
    hub.requests.clear()
    fetch(entry, accept_licence=False)
    assert hub.ranges("model.safetensors") == []
    assert hub.ranges("vqgan.ckpt") == ["bytes=5000000-"]
    assert {path.name for path in entry.directory.iterdir()} == {*NAMES, "chexmix.lock.json"}
    assert open_weights("chexmix").has_vqgan


def test_a_server_that_cannot_resume_sends_everything_again(hub: Hub, entry: ModelEntry) -> None:
    hub.cut_after, hub.cuts_left, hub.ignores_range = {"vqgan.ckpt": 5_000_000}, 1, True
    fetch(entry, accept_licence=True)
    assert (entry.directory / "vqgan.ckpt").read_bytes() == hub.files["vqgan.ckpt"]


def test_a_complete_partial_file_is_not_asked_for_again(hub: Hub, entry: ModelEntry) -> None:
    entry.directory.mkdir(parents=True)
    (entry.directory / f".vqgan.yaml.{COMMIT[:12]}.partial").write_bytes(hub.files["vqgan.yaml"])
    (entry.directory / f".config.json.{COMMIT[:12]}.partial").write_bytes(hub.files["config.json"] + b"too much")
    fetch(entry, accept_licence=True)
    assert hub.ranges("vqgan.yaml") == []
    assert hub.ranges("config.json") == [None]


def test_a_server_that_sends_on_and_on_is_stopped(hub: Hub, entry: ModelEntry) -> None:
    hub.more["config.json"] = bytes(1 << 20)
    with pytest.raises(WeightsError, match=r"the transfer stopped \(received more than the \d+ bytes of config.json"):
        fetch(entry, accept_licence=True)
    assert sum(path.stat().st_size for path in entry.directory.glob(".config.json.*.partial")) == 0


def test_another_sha256_than_the_hub_tells_is_refused(hub: Hub, entry: ModelEntry) -> None:
    hub.published["vqgan.ckpt"] = "0" * 64
    with pytest.raises(WeightsError, match=r"vqgan\.ckpt: has sha256 \w{64}; expected 0{64}, recorded by the hub"):
        fetch(entry, accept_licence=True)
    assert not (entry.directory / "vqgan.ckpt").exists()
    assert list(entry.directory.glob(".*.partial")) == []
    hub.published.clear()
    fetch(entry, accept_licence=True)


def test_another_sha256_than_weights_toml_has_is_refused(hub: Hub, entry: ModelEntry) -> None:
    files = tuple(
        EntryFile(name=file.name, required=file.required, sha256="1" * 64 if file.name == "config.json" else "")
        for file in entry.files
    )
    with pytest.raises(WeightsError, match=r"config\.json: has sha256 .*; expected 1{64}, recorded by weights\.toml"):
        fetch(dataclasses.replace(entry, files=files), accept_licence=True)


def test_a_file_changed_here_is_said_and_kept(hub: Hub, entry: ModelEntry) -> None:
    fetch(entry, accept_licence=True)
    path = entry.directory / "vqgan.yaml"
    path.write_text("changed")
    with pytest.raises(WeightsError, match=r"recorded by the first fetch") as caught:
        fetch(entry, accept_licence=True)
    assert caught.value.hint == "it was changed here: delete it, then fetch again"
    assert path.read_text() == "changed"
    assert "vqgan.yaml has sha256" in next(check.detail for check in verify("chexmix") if check.name == "files")
    path.unlink()
    fetch(entry, accept_licence=True)
    assert path.read_bytes() == hub.files["vqgan.yaml"]


def test_a_file_exchanged_on_the_hub_is_refused(hub: Hub, entry: ModelEntry) -> None:
    fetch(entry, accept_licence=True)
    (entry.directory / "vqgan.yaml").unlink()
    hub.files["vqgan.yaml"] += b"\n# other\n"
    with pytest.raises(WeightsError, match="recorded by the first fetch"):
        fetch(entry, accept_licence=True)
    assert not (entry.directory / "vqgan.yaml").exists()


@pytest.mark.parametrize(
    ("status", "message"), [(401, "access was refused"), (403, "access was refused"), (404, "no such repository")]
)
def test_refusals_of_the_hub_are_told_apart(hub: Hub, entry: ModelEntry, status: int, message: str) -> None:
    hub.file_status = status
    with pytest.raises(WeightsError, match=message):
        fetch(entry, accept_licence=True)
    assert len(hub.ranges("model.safetensors")) == 1  # a refusal is not tried again
    hub.status = status
    with pytest.raises(WeightsError, match=message):
        fetch(entry, accept_licence=True)


def test_a_server_in_trouble_is_tried_again(hub: Hub, entry: ModelEntry) -> None:
    hub.file_status = 503
    with pytest.raises(WeightsError, match="the transfer stopped"):
        fetch(entry, accept_licence=True)
    assert len(hub.ranges("model.safetensors")) == fetch_module._ATTEMPTS


def test_offline_mode_is_respected(hub: Hub, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        fetch(entry, accept_licence=True)
    assert hub.requests == []


def test_a_repository_without_a_required_file_is_refused_before_any_transfer(hub: Hub, entry: ModelEntry) -> None:
    del hub.files["vqgan.ckpt"]
    with pytest.raises(WeightsError, match=r"has no vqgan\.ckpt"):
        fetch(entry, accept_licence=True)
    assert not entry.directory.exists()


def test_a_full_disk_is_foreseen(hub: Hub, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MachineError, match=r"0\.0 GiB free; expected 0\.0 GiB"):
        fetch(entry, accept_licence=True)
    assert hub.ranges("model.safetensors") == []


def test_no_server_is_a_stopped_transfer(entry: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(Hub("a/b", {})) as server:
        url = server.url
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(WeightsError, match="the transfer stopped"):
        fetch(entry, accept_licence=True)


def test_the_embedded_model_is_not_fetched() -> None:
    with pytest.raises(WeightsError, match="is part of the installation"):
        fetch(registry()[EMBEDDED], accept_licence=True)
