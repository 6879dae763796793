from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.inference import DraftSettings
from chexmix_cli.core.weights.describe import describe_entry, describe_weights, estimate_memory
from chexmix_cli.core.weights.directory import open_weights
from chexmix_cli.core.weights.draft_index import DraftIndex
from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.formats.header import read_header
from chexmix_cli.core.weights.hub.lock import Lock, LockedFile, read_lock, write_lock
from chexmix_cli.core.weights.hub.registry import EMBEDDED, RELEASED_ENTRY, registry
from chexmix_cli.core.weights.verify import verify

Edit = Callable[[Path, str, str], None]


def _statuses(directory: Path) -> dict[str, str]:
    return {check.name: check.status for check in verify(directory)}


def _detail(directory: Path, name: str) -> str:
    return next(check.detail for check in verify(directory) if check.name == name)


def _rewrite(path: Path, **changes: torch.Tensor) -> None:
    metadata = dict(read_header(path).metadata)
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    save_file({**tensors, **changes}, path, metadata=metadata)


def test_a_sound_directory_passes(tiny_dir: Path, shared: Path) -> None:
    everything = {"files": "absent", "settings": "ok", "settings files": "ok", "decoder": "ok", "vqgan": "ok"}
    everything["drafts"] = "absent"
    assert _statuses(tiny_dir) == {**everything, "text tokenizer": "ok"}
    assert _statuses(shared / "reference" / "official-tiny") == {**everything, "text tokenizer": "absent"}


def test_a_draft_index_must_be_of_the_text_tokenizer_beside_it(tiny_dir: Path) -> None:
    weights = open_weights(tiny_dir)
    reports = [(patient, [1, 2, 3]) for patient in range(3)]
    for digest, status in ((str(weights.text_tokenizer_hash), "ok"), ("ffff", "failed")):
        index = DraftIndex.build(reports, weights.settings.vocabulary, DraftSettings(), tokenizer=digest)
        index.save(tiny_dir / "drafts.safetensors")
        assert _statuses(tiny_dir)["drafts"] == status
    assert "another text tokenizer" in _detail(tiny_dir, "drafts")


def test_every_problem_is_found_at_once(tiny_dir: Path, edit: Edit) -> None:
    _rewrite(
        tiny_dir / "model.safetensors", **{"lm_head.bias": torch.full((1066,), float("nan")), "more": torch.zeros(1)}
    )
    _rewrite(tiny_dir / "vqgan.safetensors", **{"quant_conv.bias": torch.zeros(7)})
    edit(tiny_dir / "config.json", '"rope_theta": 10000.0', '"rope_theta": 500.0')
    edit(tiny_dir / "vqgan.yaml", "resolution: 16", "resolution: 32")
    edit(tiny_dir / "tokenizer.json", "<|img|>", "<|imm|>")
    write_lock(
        tiny_dir, Lock(repository="a/b", commit="c", licence="d", files={"gone": LockedFile(sha256="0", num_bytes=1)})
    )
    found = {check.name: check for check in verify(tiny_dir)}
    assert {name for name, check in found.items() if check.status != "ok"} == set(found) - {"settings"}
    assert found["files"].detail == "gone is missing"
    assert "1 unexpected: more; 1 not finite: lm_head.bias" in found["decoder"].detail
    assert "quant_conv.bias is 7, not 6" in found["vqgan"].detail
    assert "config.json describes another decoder" in found["settings files"].detail
    assert "vqgan.yaml describes another image tokenizer" in found["settings files"].detail
    assert "<|img|> has id None" in found["text tokenizer"].detail


def test_recorded_digests_are_held_against_the_bytes(tiny_dir: Path) -> None:
    path = tiny_dir / "model.safetensors"
    locked = LockedFile(sha256=file_sha256(path), num_bytes=path.stat().st_size)
    write_lock(tiny_dir, Lock(repository="a/b", commit="c", licence="d", files={path.name: locked}))
    assert _detail(tiny_dir, "files") == "1 file with the sha256 recorded"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    import os

    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the remembered digest would still be believed
    assert "model.safetensors has sha256" in _detail(tiny_dir, "files")


def test_settings_that_cannot_be_told_end_the_list(tiny_dir: Path) -> None:
    path = tiny_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert _statuses(tiny_dir) == {"files": "absent", "settings": "failed"}
    assert "is cut short at 100 bytes" in _detail(tiny_dir, "settings")
    with pytest.raises(WeightsError, match="no such weights"):
        verify(tiny_dir / "nothing")


def test_a_damaged_lock_is_said(tiny_dir: Path) -> None:
    for text in ("{", "[]", '{"schema": 9, "files": {}}', '{"schema": 1, "files": {}, "commit": "a"}'):
        (tiny_dir / "chexmix.lock.json").write_text(text)
        with pytest.raises(WeightsError, match=r"chexmix\.lock\.json: is damaged"):
            read_lock(tiny_dir)
        assert _statuses(tiny_dir)["files"] == "failed"


def test_info_counts_what_is_there(tiny_dir: Path, shared: Path) -> None:
    record = describe_weights(open_weights(tiny_dir))
    header = read_header(tiny_dir / "model.safetensors")
    assert record["parts"]["decoder"] == {
        "file": "model.safetensors",
        "num_bytes": (tiny_dir / "model.safetensors").stat().st_size,
        "num_parameters": header.num_parameters,
        "dtypes": ["F32"],
    }
    assert record["num_parameters"] == sum(record["parts"][name]["num_parameters"] for name in ("decoder", "vqgan"))
    assert record["parts"]["text_tokenizer"] == ["tokenizer.json"]
    # 2 (keys, values) x 2 layers x 64 positions x 24 wide, 4 bytes each.
    assert record["memory_bytes"]["float32"] == {"weights": 4 * record["num_parameters"], "cache": 24576}
    (tiny_dir / "model.safetensors").unlink()
    assert describe_weights(open_weights(tiny_dir))["parts"]["decoder"] is None
    official = describe_weights(open_weights(shared / "reference" / "official-tiny"))
    state = torch.load(shared / "reference" / "official-tiny" / "vqgan.ckpt", weights_only=True)["state_dict"]
    assert official["parts"]["vqgan"]["num_parameters"] == sum(value.numel() for value in state.values())


def test_the_released_model_needs_what_its_size_says() -> None:
    settings = registry()[RELEASED_ENTRY].model_settings()
    memory = estimate_memory(settings.decoder, 2_800_000_000, 2)
    assert memory.weights == 5_600_000_000
    assert memory.cache == 2 * 32 * 2048 * 2560 * 2


def test_entries_say_whether_they_are_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_dir: Path) -> None:
    assert describe_entry(registry()[RELEASED_ENTRY])["is_here"] is False
    shutil.copytree(tiny_dir, tmp_path / "assets" / EMBEDDED)
    monkeypatch.setattr("chexmix_cli.core.weights.hub.registry._PACKAGE", tmp_path)
    record = describe_entry(registry()[EMBEDDED])
    assert record["is_here"] is True
    assert record["num_bytes"] == sum(path.stat().st_size for path in tiny_dir.iterdir())


def test_the_embedded_model_is_sound_and_its_digests_are_recorded() -> None:
    entry = registry()[EMBEDDED]
    assert [check for check in verify(EMBEDDED) if check.status != "ok"] == []
    recorded = {file.name for file in entry.files if file.sha256}
    assert recorded >= {"model.safetensors", "vqgan.safetensors", "tokenizer.json"}, "record them in weights.toml"
