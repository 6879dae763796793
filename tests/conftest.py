"""What every test may use: the checkout, the development data, tiny models, a home of its own, no network."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

# One thread a worker: threads under parallel workers only contend. Set before torch is loaded anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

# Kernels run in Triton's interpreter where there is no GPU. Triton asks when it is imported, its own functions
# included, and some tests import it by way of torch: so it is said here, for all of them.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_finish() -> None:
    """Leave all that is loaded and collected out of searches for cycles from now on: they took a part of every test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a certificate of 127.0.0.1 that has signed itself, and its key; or skip without OpenSSL's program."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    found = folder / "certificate.pem", folder / "key.pem"
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(found[0]), "-keyout", str(found[1])]
    subprocess.run(command, check=True, capture_output=True)
    return found


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of development data beside the checkout, or skip where there is none."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep caches, salts and fetched weights out of the user's home."""
    folder = tmp_path_factory.mktemp("chexmix-home")
    monkeypatch.setenv("CHEXMIX_HOME", str(folder))
    monkeypatch.setenv("CHEXMIX_ID_SALT", "a salt for tests")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves the machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> object:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0] if isinstance(address, tuple) else address
            assert host in ("127.0.0.1", "::1", "localhost"), f"a test wants to reach {host}"
        return connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: bits must not depend on how the machine splits a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def debug_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a weights directory of the ``debug`` model with every parameter random."""
    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.models.vqgan import Vqgan
    from chexmix_cli.core.settings.load import build, read_preset
    from chexmix_cli.core.settings.model import ModelSettings
    from chexmix_cli.core.weights import save_model

    settings = build(ModelSettings, read_preset("model", "debug"))
    generator = torch.Generator().manual_seed(11)
    decoder, vqgan = Decoder(settings.decoder), Vqgan(settings.vqgan)
    with torch.no_grad():
        for parameter in [*decoder.parameters(), *vqgan.parameters()]:
            parameter.normal_(std=0.3, generator=generator)
    folder = tmp_path_factory.mktemp("debug-weights")
    tokenizer = REPOSITORY / "chexmix_cli/assets/chexmix-mini/tokenizer.json"
    save_model(folder, settings, decoder=decoder, vqgan=vqgan, tokenizer_file=tokenizer)
    return folder


@pytest.fixture(scope="session")
def plain_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the embedded model as a decoder that other programs have: with one position a token, in bfloat16.

    It was trained with rows and columns, so its reports say little; but its numbers are those of a trained model.
    """
    import dataclasses

    from chexmix_cli.core.weights import open_weights, save_model

    mini = open_weights(None)
    decoder = dataclasses.replace(mini.settings.decoder, rope_grid=0)
    settings = dataclasses.replace(mini.settings, name="plain", decoder=decoder)
    folder = tmp_path_factory.mktemp("plain-weights")
    save_model(
        folder,
        settings,
        decoder=mini.load_decoder("cpu", torch.bfloat16),
        vqgan=mini.load_vqgan("cpu", torch.bfloat16),
        tokenizer_file=mini.tokenizer_file,
    )
    return folder
