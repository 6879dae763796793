"""The documents as a site: built strictly, whole, and without a request to anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra `site` is not installed")


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site_and_in_its_navigation(repository, site):
    written = {page.relative_to(repository / "docs").with_suffix(".html") for page in repository.glob("docs/**/*.md")}
    built = {page.relative_to(site) for page in site.rglob("*.html")}
    assert written <= built
    home = (site / "index.html").read_text(encoding="utf-8")
    listed = {Path(link.partition("#")[0]) for link in re.findall(r'href="?([^" >]+)', home) if ".html" in link}
    assert built - listed == {Path("404.html")}


def test_no_page_asks_for_anything_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|srcset)="?(?:https?:)?//', text), page.name
        assert not re.findall(r'<link[^>]+href="?(?:https?:)?//', text), page.name


def test_links_to_files_outside_the_documents_lead_to_their_pages(site):
    home, documents = ((site / name).read_text(encoding="utf-8") for name in ("index.html", "documents.html"))
    assert 'href="project/changelog.html"' in home
    assert 'href="index.html"' in documents
    assert 'src="images/demo-report.png"' in home
    assert (site / "images" / "demo-report.png").is_file()
