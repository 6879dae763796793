"""Write the sha256 of the embedded model's files into weights.toml, once weights, head and drafts are in place.

    python tools/renew_sha256.py

``chexmix weights check`` holds the files against them.
"""

from __future__ import annotations

import re
from pathlib import Path

from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.hub.registry import EMBEDDED, ModelEntry, read_registry

REGISTRY = Path(__file__).resolve().parents[1] / "weights.toml"


def renewed(text: str, entry: ModelEntry) -> str:
    """Return the text of the registry with the sha256 that the entry's files have."""
    for file in entry.files:
        digest = file_sha256(entry.directory / file.name, fresh=True)
        line = rf'(name = "{re.escape(file.name)}"\nsha256 = )"[0-9a-f]*"'
        text, count = re.subn(line, rf'\g<1>"{digest}"', text)
        assert count == 1, f"{file.name}: {count} lines of sha256"
    return text


def main() -> None:
    """Renew the file, and say what changed."""
    text = REGISTRY.read_text(encoding="utf-8")
    found = renewed(text, read_registry(REGISTRY)[EMBEDDED])
    REGISTRY.write_text(found, encoding="utf-8")
    changed = sum(one != other for one, other in zip(text.split("\n"), found.split("\n"), strict=True))
    print(f"{REGISTRY}: {changed} sha256 renewed")


if __name__ == "__main__":
    main()
