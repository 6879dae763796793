"""Names of the files of a weights directory, where chexmix keeps its own, and atomic writing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: Decoder, keys as in ``PhiForCausalLM``.
MODEL_FILE = "model.safetensors"
#: Image tokenizer, keys as in taming-transformers' VQModel; the pickled form is the released one.
VQGAN_FILE = "vqgan.safetensors"
VQGAN_CHECKPOINT = "vqgan.ckpt"
#: Projections of the retrieval task (core/infer/retrieval/projection.py).
RETRIEVAL_FILE = "retrieval.safetensors"
#: Linear head of the classification task (core/infer/classification/heads.py).
HEAD_FILE = "head.safetensors"
#: What usually follows what in reports (core/infer/draft_index.py).
DRAFTS_FILE = "drafts.safetensors"
#: Settings of the released layout.
CONFIG_FILE = "config.json"
VQGAN_CONFIG = "vqgan.yaml"
#: Text tokenizer: one file, or three (the released layout).
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_PARTS = ("vocab.json", "merges.txt", "added_tokens.json")
#: Where a training run keeps its weights.
RUN_MODEL = "model"


def home() -> Path:
    """Return the folder of fetched weights and caches: ``$CHEXMIX_HOME``, else ``~/.cache/chexmix``."""
    configured = os.environ.get("CHEXMIX_HOME")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "chexmix"


def tokenizer_files(directory: Path) -> list[Path]:
    """Return the files of a directory's text tokenizer: one, three, or none."""
    for names in ((TOKENIZER_FILE,), TOKENIZER_PARTS):
        found = [directory / name for name in names if (directory / name).is_file()]
        if found:
            return found
    return []


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its name, flushed to disk, when the block ends well.

    The folder is made if missing. On an exception the temporary file goes and ``path`` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))
