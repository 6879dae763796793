"""Hooks of mkdocs: the README and its neighbours, which lie beside docs/, become pages, and links follow them.

A link may lead from any page to any other file of the repository; in the site it leads to that file's page, and
where the file has none it becomes plain text. Pictures that lie outside docs/ are not there to be linked.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Files of the repository that are pages of the site, by where the site has them.
PAGES = {
    "index.md": "README.md",
    "documents.md": "docs/index.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
    "project/model-card.md": "chexmix_cli/assets/chexmix-mini/MODEL_CARD.md",
    "project/licence.md": "LICENSE",
    "project/notice.md": "NOTICE",
}
_SITE = {source: target for target, source in PAGES.items()}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")
#: Plain text, which Markdown would fold into paragraphs.
_PLAIN = ("LICENSE", "NOTICE")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    index = files.get_file_from_path("index.md")
    if index is not None:
        files.remove(index)  # it is a page under another name
    for target, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source in _PLAIN:
            text = f"# {source.capitalize()}\n\n```text\n{text}\n```\n"
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at the site's pages."""
    uri = page.file.src_uri
    return _LINK.sub(lambda found: _link(found, uri), markdown)


def _link(found: re.Match[str], uri: str) -> str:
    mark, text, target = found.groups()
    path, hash_mark, anchor = target.partition("#")
    source = PAGES.get(uri, f"docs/{uri}")
    full = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    inside = _SITE.get(full) or (full.removeprefix("docs/") if full.startswith("docs/") else None)
    if inside is None:
        return text
    return f"{mark}[{text}]({posixpath.relpath(inside, posixpath.dirname(uri) or '.')}{hash_mark}{anchor})"
