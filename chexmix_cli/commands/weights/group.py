"""``chexmix weights``: list, describe, check, convert, export and fetch models; index reports for their drafts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.records.streams import Writer
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.wrapping import draw_table
from chexmix_cli.commands.weights.drafts import drafts
from chexmix_cli.core.errors import ExitCode, SettingsError, WeightsError
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    import torch

    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.core.weights import WeightsDir

app = typer.Typer(help="List, describe, check, convert, export and fetch models.")

Model = Annotated[
    str | None,
    typer.Argument(metavar="[NAME|DIR]", help="A model's name, a weights directory, a run. Default: the embedded one."),
]
Source = Annotated[
    str, typer.Argument(metavar="NAME|DIR|FILE", help="A model's name, a weights directory, or one weight file of it.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A model of `chexmix weights list`.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.", show_default=False)]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", metavar="NAME", help="stored (bit for bit), float32, bfloat16 or float16.", show_default=True
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="hf|gguf", help="hf: PhiForCausalLM of transformers and vLLM; gguf: llama.cpp (extra gguf)."
    ),
]
Exported = Annotated[str, typer.Argument(metavar="NAME|DIR", help="A model's name, a weights directory, a run.")]
QuantizeGguf = Annotated[
    str | None, typer.Option("--quantize", metavar="q8_0", help="gguf: hold the matrices in 8 bits.")
]
MaxShardSize = Annotated[
    str | None,
    typer.Option(
        "--max-shard-size",
        metavar="SIZE",
        help="Split what is larger into files with an index: 5GB, 500MB. Default: as the source is.",
    ),
]
AcceptLicence = Annotated[
    bool, typer.Option("--accept-licence", help="You have read the model's licence and your use is within it.")
]


@app.command("list")
@command(None, "is_json")
def list_models(call: Call[None]) -> int:
    """List the models known by name, and whether they are installed.

    Examples:

        chexmix weights list
    """
    from chexmix_cli.core.weights.describe import describe_entry
    from chexmix_cli.core.weights.hub.registry import registry

    writer = Writer(call.options.is_json)
    records = [_record(entry.name, describe_entry(entry)) for entry in registry().values()]
    if writer.is_text:
        rows = [
            (record["name"], _where(record), _size(record["num_bytes"]), record["licence"], record["summary"])
            for record in records
        ]
        writer.show(draw_table(("name", "where", "size", "licence", "what"), rows) + "\n")
        return ExitCode.DONE
    for record in records:
        writer.write(record, "")
    return ExitCode.DONE


@app.command("info")
@command(None, "is_json")
def info(call: Call[None], model: Model = None) -> int:
    """Show a model's settings, parts, sizes, licence, fingerprint and the memory it needs.

    Examples:

        chexmix weights info

        chexmix weights info runs/stage2 --json
    """
    from chexmix_cli.core.weights import open_weights
    from chexmix_cli.core.weights.describe import describe_weights

    weights = open_weights(model)
    _note_licence(call.console, weights.licence_notice)
    writer, description = Writer(call.options.is_json), describe_weights(weights)
    if writer.is_text:
        rows = [*_summary(description), *_flat(description["settings"])]
        writer.show(draw_table(("", weights.name), rows) + "\n")
    else:
        writer.write(_record(weights.name, description), "")
    return ExitCode.DONE


# The same under a name that is easily tried first.
app.command("inspect", hidden=True)(info)


@app.command("check")
@command(None, "is_json")
def check(call: Call[None], model: Model = None) -> int:
    """Check a model before it is used: files, settings, every tensor, text tokenizer, drafts, heads, sha256.

    Examples:

        chexmix weights check

        chexmix weights check WEIGHTS --json
    """
    from dataclasses import asdict

    from chexmix_cli.core.infer.verification import verify_all

    writer = Writer(call.options.is_json)
    checks = verify_all(model)
    failed = [check for check in checks if check.status == "failed"]
    record = _record(model or "chexmix-mini", {"checks": [asdict(check) for check in checks]})
    if failed:
        problems = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        record |= {"status": "error", "error": {"code": "WEIGHTS", "message": problems}}
    if writer.is_text:
        rows = [(check.name, check.status, check.detail) for check in checks]
        writer.show(draw_table(("check", "status", "detail"), rows) + "\n")
    else:
        writer.write(record, "")
    if failed:
        call.console.note(f"{len(failed)} of {len(checks)} checks failed")
    return ExitCode.FAILED if failed else ExitCode.DONE


@app.command("convert")
@command(None, "is_json")
def convert(
    call: Call[None],
    source: Source,
    out: Out,
    dtype: Dtype = "stored",
    max_shard_size: MaxShardSize = None,
) -> int:
    """Turn weights into safetensors that describe themselves; vqgan.ckpt is read without running code from it.

    A GGUF file that `chexmix weights export` wrote is read back, with its text tokenizer. Of a folder that has only a
    decoder, or only an image tokenizer, that one is converted, and a message says which is missing.

    Examples:

        chexmix weights convert WEIGHTS -o CONVERTED

        chexmix weights convert WEIGHTS/vqgan.ckpt -o WEIGHTS

        chexmix weights convert WEIGHTS -o SHARDED --max-shard-size 5GB
    """
    from chexmix_cli.core.weights import open_weights
    from chexmix_cli.core.weights.convert import convert as run_convert

    _note_missing(source, call.console)
    written = run_convert(source, out, dtype=_dtype(dtype), max_bytes=_bytes(max_shard_size))
    return _report_files(source, written, open_weights(out), call)


@app.command("export")
@command(None, "is_json")
def export(
    call: Call[None],
    source: Exported,
    out: Out,
    target: Format = "hf",
    dtype: Dtype = "stored",
    quantize: QuantizeGguf = None,
    max_shard_size: MaxShardSize = None,
) -> int:
    """Write the decoder and text tokenizer for another program, which then reads and writes the same token ids.

    hf is read by transformers and vLLM; gguf by llama.cpp. What their Phi cannot be, rotary positions by row and column
    or attention to the whole image, is refused. docs/serving-elsewhere.md says how to go on.

    Examples:

        chexmix weights export WEIGHTS --format hf -o EXPORTED --dtype bfloat16

        chexmix weights export WEIGHTS --format gguf -o EXPORTED --quantize q8_0
    """
    from chexmix_cli.core.weights import open_weights
    from chexmix_cli.core.weights.export import export_gguf, export_hf
    from chexmix_cli.core.weights.model_card import differences

    if target not in ("hf", "gguf"):
        raise SettingsError(f"{target!r} is not a format", where="--format", expected="hf, gguf")
    if quantize not in (None, "q8_0"):
        raise SettingsError(f"{quantize!r} is not known", where="--quantize", expected="q8_0")
    if target == "gguf":
        if max_shard_size is not None:
            raise SettingsError("a GGUF export is one file", where="--max-shard-size", expected="--format hf")
        if quantize is not None and dtype != "stored":
            raise SettingsError("leaves nothing for --dtype to say", where="--quantize", expected="one of the two")
        written = export_gguf(source, out, dtype=_dtype(dtype), quantize="q8_0" if quantize else None)
    else:
        if quantize is not None:
            raise SettingsError("is a form of GGUF", where="--quantize", expected="--format gguf")
        written = export_hf(source, out, dtype=_dtype(dtype), max_bytes=_bytes(max_shard_size))
    weights = open_weights(source)
    for difference in differences(weights.settings):
        call.console.note(difference)
    return _report_files(source, written, weights, call)


@app.command("fetch")
@command(None, "is_json")
def fetch(
    call: Call[None],
    name: Name,
    accept_licence: AcceptLicence = False,
) -> int:
    """Fetch a model from the Hugging Face hub, or check what was fetched.

    An interrupted transfer resumes. Files go to $CHEXMIX_HOME/weights (default ~/.cache/chexmix/weights).

    Examples:

        chexmix weights fetch chexmix --accept-licence
    """
    from chexmix_cli.core.weights import open_weights
    from chexmix_cli.core.weights.hub.fetch import fetch as run_fetch
    from chexmix_cli.core.weights.hub.registry import registry

    entry = registry().get(name)
    if entry is None:
        raise WeightsError(f"no model {name!r}", where="weights.toml", expected=", ".join(registry()))
    console = call.console
    if entry.licence.must_accept:
        console.note(f"{entry.licence.name} ({entry.licence.url})\n\n{entry.licence.text.strip()}\n")
    with console.progress(f"{name}, MiB") as move:
        lock = run_fetch(
            entry, accept_licence=accept_licence, progress=lambda _, done, total: move(done >> 20, total >> 20)
        )
    files = [entry.directory / file for file in lock.files]
    return _report_files(name, files, open_weights(name), call)


app.command("drafts")(drafts)


def _report_files(source: str, written: list[Path], weights: WeightsDir, call: Call[None]) -> int:
    """Write the record of a command that made files, with their digests, and the terms of the weights in them."""
    from chexmix_cli.core.weights.fingerprint import file_sha256

    writer = Writer(call.options.is_json)
    _note_licence(call.console, weights.licence_notice)
    digests = [(path, path.stat().st_size, file_sha256(path)) for path in written]
    if writer.is_text:
        rows = [(str(path), _size(size), digest) for path, size, digest in digests]
        writer.show(draw_table(("file", "size", "sha256"), rows) + "\n")
    else:
        files = [{"path": str(path), "num_bytes": size, "sha256": digest} for path, size, digest in digests]
        writer.write(_record(source, {"files": files}), "")
    return ExitCode.DONE


def _record(record_id: str, values: dict[str, Any]) -> Record:
    return {"id": record_id, "status": "ok", **values}


def _note_licence(console: Console, notice: str | None) -> None:
    if notice is not None:
        console.note(notice)


def _note_missing(source: str, console: Console) -> None:
    """Say which network a folder of weights does not have; whoever names one file asks for no more."""
    from chexmix_cli.core.weights import files, open_weights

    if Path(source).expanduser().is_file():
        return
    weights = open_weights(source)
    if not weights.has_decoder:
        console.note(f"{weights.path} has no decoder ({files.MODEL_FILE}): none is written")
    if not weights.has_vqgan:
        console.note(f"{weights.path} has no image tokenizer ({files.VQGAN_FILE}): none is written")


def _dtype(name: str) -> torch.dtype | None:
    if name not in ("stored", "float32", "bfloat16", "float16"):
        raise SettingsError(f"{name!r} is not a dtype", where="--dtype", expected="stored, float32, bfloat16, float16")
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(name)


def _bytes(size: str | None) -> int | None:
    """Return a size as transformers writes it, in bytes; GB is 10^9, GiB 2^30."""
    if size is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B", size, re.IGNORECASE)
    count = 0.0 if found is None else float(found[1])
    if found is None or count == 0:
        raise SettingsError(f"{size!r} is no size", where="--max-shard-size", expected="such as 5GB or 500MB")
    return int(count * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))


def _where(record: Record) -> str:
    if record["source"] == "embedded":
        return "installed" if record["is_here"] else "missing"
    return "fetched" if record["is_here"] else "not fetched"


def _summary(description: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows above the settings, for people."""
    rows = [("path", description["path"]), ("fingerprint", description["fingerprint"])]
    for name, part in description["parts"].items():
        if isinstance(part, dict):
            dtypes = f", {'+'.join(part['dtypes'])}" if part["dtypes"] else ""
            text = f"{part['file']}: {part['num_parameters']:,} parameters, {_size(part['num_bytes'])}{dtypes}"
        else:
            text = ", ".join(part) if part else "none"
        rows.append((name.replace("_", " "), text))
    for dtype, needed in description["memory_bytes"].items():
        rows.append((f"to run in {dtype}", f"{_size(needed['weights'])} + {_size(needed['cache'])} a report, at least"))
    licence = description["licence"]
    rows.append(("licence", f"{licence['name']} ({licence['url']})" if licence else "not known"))
    rows.append(("settings from", "; ".join(description["settings_from"])))
    return [*rows, *_flat(description["provenance"], "provenance.")]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, ...]]:
    """Return nested settings as rows of dotted keys."""
    rows: list[tuple[str, ...]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows


def _size(num_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"
