"""Names of the files of a weights directory, and where chexmix keeps its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.files import write_text

#: Decoder, keys as in ``PhiForCausalLM``.
MODEL_FILE = "model.safetensors"
#: Image tokenizer, keys as in taming-transformers' VQModel; the pickled form is the released one.
VQGAN_FILE = "vqgan.safetensors"
VQGAN_CHECKPOINT = "vqgan.ckpt"
#: Projections of the retrieval task (core/infer/retrieval/projection.py).
RETRIEVAL_FILE = "retrieval.safetensors"
#: Linear head of the classification task (core/infer/classification/heads.py).
HEAD_FILE = "head.safetensors"
#: What train films are like (core/infer/typicality.py).
TYPICAL_FILE = "typical.safetensors"
#: What usually follows what in reports (core/weights/draft_index.py).
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


class Remembered:
    """A small JSON file in :func:`home` of what takes time to find out, by text; it holds the newest entries.

    A home that cannot be written costs that time again, nothing else; and so does a file that is damaged.

    Args:
        name: of the file.
        most: entries.
    """

    def __init__(self, name: str, *, most: int) -> None:
        self._name, self._most = name, most

    def get(self, key: str) -> Any:
        """Return what was found out, or None."""
        return self._all().get(key)

    def put(self, key: str, value: Any) -> None:
        """Remember it."""
        entries = [(name, other) for name, other in self._all().items() if name != key]
        kept = dict([*entries, (key, value)][-self._most :])
        try:
            write_text(home() / self._name, json.dumps(kept, indent=0))
        except OSError:
            return

    def _all(self) -> dict[str, Any]:
        try:
            known = json.loads((home() / self._name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}


def refuse_links_out(directory: Path) -> None:
    """Refuse a weights directory with a file that is a link out of it.

    Where weights are converted, licences and tokenizers are copied along: a link in an archive of others would copy any
    file of the user's. In the cache of huggingface-hub every file of a snapshot is a link, to ``blobs`` beside it.

    Raises:
        WeightsError: that names the link.
    """
    root = directory.resolve()
    allowed = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    for path in sorted(directory.iterdir()):
        if path.is_symlink() and path.is_file() and not any(path.resolve().is_relative_to(one) for one in allowed):
            raise WeightsError(
                f"{path.name} is a link out of the folder",
                where=str(directory),
                expected="files of the weights' own",
                hint="where you trust it, put the file itself there",
            )


def tokenizer_files(directory: Path) -> list[Path]:
    """Return the files of a directory's text tokenizer: one, three, or none."""
    for names in ((TOKENIZER_FILE,), TOKENIZER_PARTS):
        found = [directory / name for name in names if (directory / name).is_file()]
        if found:
            return found
    return []
