"""One evaluation as one HTML file: tables, plots and cases, nothing loaded from elsewhere, readable without scripts."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from chexmix_cli.core.present.picture import MARK

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1100px;padding:1.5rem;color:#1b1b1b;background:#fff}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2rem 0 .6rem;border-bottom:1px solid #ddd}
h3{font-size:1rem;margin:1.2rem 0 .4rem}.mark{color:#9c1c1c;font-weight:600}.muted{color:#666;font-size:.88rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;padding:.3rem .6rem;vertical-align:top;
border-bottom:1px solid #eee}th{border-bottom:2px solid #ccc}td.n{text-align:right;font-variant-numeric:tabular-nums;
white-space:nowrap}td code{font-size:.8rem;color:#555;overflow-wrap:anywhere}.wide{overflow-x:auto}
.plots,.cases{display:flex;flex-wrap:wrap;
gap:1rem}.plots img{max-width:100%;border:1px solid #eee}.case{border:1px solid #ddd;border-radius:6px;padding:.8rem;
flex:1 1 min(460px,100%);box-sizing:border-box;overflow-wrap:anywhere}
.case img{max-width:100%;image-rendering:pixelated}
.case figure{display:inline-block;margin:0 .6rem .4rem 0;max-width:100%}figcaption{font-size:.8rem;color:#666}
.case p{margin:.3rem 0;white-space:pre-wrap}@media(prefers-color-scheme:dark){body{background:#fff}}
"""


class ShownCase(Protocol):
    """A case (``core/evals/result.py: Case``)."""

    @property
    def id(self) -> str:
        """Return the item's id."""

    @property
    def group(self) -> str:
        """Return the heading it stands under."""

    @property
    def texts(self) -> Mapping[str, str]:
        """Return texts by heading."""

    @property
    def pictures(self) -> Mapping[str, bytes]:
        """Return PNG bytes by caption."""


def evaluation_page(record: Mapping[str, Any], cases: Sequence[ShownCase], plots: Mapping[str, bytes]) -> str:
    """Return the page of one evaluation.

    Args:
        record: ``Evaluation.to_dict()``.
        cases: best and worst items.
        plots: PNG bytes by the curve's name, in order.
    """
    title = f"chexmix evaluation: {record['task']}"
    titles = {curve["name"]: curve["title"] for curve in record["curves"]}
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="mark">{_text(MARK)}</p>',
        f'<p class="muted">chexmix {_text(record["version"])}</p>',
        *_facts("Model", record["model"]),
        *_facts("Data", record["data"]),
        "<h2>Numbers</h2>",
        _numbers(record["metrics"]),
    ]
    if record["missing"]:
        rows = [(_text(one["what"]), _text(one["reason"])) for one in record["missing"]]
        parts += ["<h2>Not computed</h2>", _table(("what", "why"), rows)]
    if plots:
        images = [_picture(png, titles.get(name, name)) for name, png in plots.items()]
        parts += ["<h2>Plots</h2>", f'<div class="plots">{"".join(images)}</div>']
    for group in dict.fromkeys(case.group for case in cases):
        shown = "".join(_case(case) for case in cases if case.group == group)
        parts += [f"<h2>{_text(group)}</h2>", f'<div class="cases">{shown}</div>']
    if record["failed"]:
        failed = [(_text(one["id"]), _text(one["code"]), _text(one["message"])) for one in record["failed"]]
        parts += ["<h2>Not used</h2>", _table(("id", "code", "message"), failed)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_text(title)}</title>'
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _facts(heading: str, values: Mapping[str, Any] | None) -> list[str]:
    if not values:
        return []
    rows = [(_text(str(name)), _text(_plain(value))) for name, value in values.items()]
    return [f"<h2>{_text(heading)}</h2>", _table(None, rows)]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    return str(value)


def _numbers(metrics: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in metrics:
        value = "&ndash;" if one["value"] is None else f"{one['value']:.4g}"
        interval = "" if one["interval"] is None else "{:.4g} to {:.4g}".format(*one["interval"])
        fields = " ".join(f"{_text(name)}={_text(found)}" for name, found in one["fields"].items())
        reason = f"<br>{_text(one['reason'])}" if "reason" in one else ""
        protocol = f"{fields}{reason}<br><code>{_text(one['signature'])}</code>"
        numbers = "".join(f'<td class="n">{cell}</td>' for cell in (value, interval, str(one["n"])))
        rows.append(f"<tr><td>{_text(one['name'])}</td>{numbers}<td>{protocol}</td></tr>")
    head = "".join(f"<th>{name}</th>" for name in ("metric", "value", "95 %", "n", "protocol"))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _table(columns: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already."""
    head = (
        "" if columns is None else f"<thead><tr>{''.join(f'<th>{_text(name)}</th>' for name in columns)}</tr></thead>"
    )
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _case(case: ShownCase) -> str:
    pictures = "".join(
        f"<figure>{_picture(png, caption)}<figcaption>{_text(caption)}</figcaption></figure>"
        for caption, png in case.pictures.items()
    )
    texts = "".join(f"<p><b>{_text(name)}</b>\n{_text(text)}</p>" for name, text in case.texts.items())
    return f'<div class="case"><h3>{_text(case.id)}</h3>{pictures}{texts}</div>'


def _picture(png: bytes, caption: str) -> str:
    return f'<img alt="{_text(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _text(text: str) -> str:
    return html.escape(text)
