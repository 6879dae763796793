"""From a template and its values to one HTML file: all text escaped, styles and scripts inside, named by their hash.

The content security policy allows nothing but ``data:`` pictures and the style and script that the page was made with:
a page that shows hostile text runs none of it, and none asks anything of the network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from chexmix_cli import __version__
from chexmix_cli.core.present.picture import MARK

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = "chexmix_cli.core.present"
_COMMON_STYLE = "page.css"
#: What a JSON text must not hold inside a script element, each as the escape that JSON has for it.
_IN_SCRIPT = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


def render(name: str, *, title: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """Return a page.

    Args:
        name: of the template: ``NAME.html`` with ``NAME.css`` beside it.
        title: of the page; its heading, too.
        scripts: files of scripts beside it, which become one.
        values: of the template. A name that it asks for and is not given is an error.
    """
    environment = _environment()
    style = _file(_COMMON_STYLE) + _file(f"{name}.css")
    script = "".join(_file(one) for one in scripts) if scripts else None
    page: str = environment.get_template(f"{name}.html").render(
        title=title,
        mark=MARK,
        version=__version__,
        policy=_policy(style, script),
        style=style,
        script=script,
        **values,
    )
    return page


def as_script_json(value: Any) -> str:
    """Return a value as JSON that can stand in a script element: nothing in it ends the element or opens another."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_IN_SCRIPT)


def data_url(picture: bytes) -> str:
    """Return a PNG, JPEG or WebP as a ``data:`` URL; what it is, its first bytes say."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg" if picture.startswith(b"\xff\xd8") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def plain(value: Any) -> str:
    """Return a value of a record in words: lists with commas, names with colons."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(one) for one in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "\u2013" if value is None else str(value)


def number(value: float | None) -> str:
    """Return a number in four significant digits, a dash where there is none."""
    return "\u2013" if value is None else f"{value:.4g}"


def _policy(style: str, script: str | None) -> str:
    parts = ["default-src 'none'", "img-src data:", f"style-src {_hashed(style)}", "base-uri 'none'"]
    parts += ["form-action 'none'"] + ([] if script is None else [f"script-src {_hashed(script)}"])
    return "; ".join(parts)


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(_PACKAGE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_url": data_url, "plain": plain, "number": number}
    return environment


@lru_cache(maxsize=16)
def _file(name: str) -> str:
    """Return a style or script; its line ends are those that the browser hashes."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0].replace("\r\n", "\n")
