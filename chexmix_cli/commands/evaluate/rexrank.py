"""``chexmix evaluate rexrank``: the inference that the ReXrank benchmark calls, in both of its published forms.

Round 1 gives three positions, round 2 three flags: studies as JSON, where to write them with ``model_prediction``, and
the folder of the images. A study has ``key_image_path``, or ``image_path`` and ``frontal_lateral``; all that it has is
written back. A study that cannot be read gets an empty prediction, so that none goes missing where a
scorer joins by id, and is named on stderr by its code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL
from chexmix_cli.core.errors import ChexmixError, DataError, ExitCode, Reason, SettingsError
from chexmix_cli.core.settings.inference import GenerateReportSettings

if TYPE_CHECKING:
    from chexmix_cli.library.films import Film, FilmReader
    from chexmix_cli.library.jobs.job import Job

Input = Annotated[Path | None, typer.Argument(metavar="INPUT_JSON", help="Studies by id, as the benchmark has them.")]
Output = Annotated[Path | None, typer.Argument(metavar="SAVE_JSON", help="Where they go with model_prediction.")]
Root = Annotated[Path | None, typer.Argument(metavar="IMG_ROOT", help="Folder of the images.")]
InputFlag = Annotated[Path | None, typer.Option("--input_json_file", metavar="FILE", help="As INPUT_JSON.")]
OutputFlag = Annotated[Path | None, typer.Option("--save_json_file", metavar="FILE", help="As SAVE_JSON.")]
RootFlag = Annotated[Path | None, typer.Option("--img_root_dir", metavar="DIR", help="As IMG_ROOT.")]


@command(GenerateReportSettings, *MODEL, "seed")
def rexrank(
    call: Call[GenerateReportSettings],
    input_json: Input = None,
    save_json: Output = None,
    img_root: Root = None,
    input_json_file: InputFlag = None,
    save_json_file: OutputFlag = None,
    img_root_dir: RootFlag = None,
) -> int:
    """Write reports for the studies of ReXrank, as the benchmark calls for them.

    Examples:

        chexmix evaluate rexrank test.json predictions.json images/

        chexmix evaluate rexrank --input_json_file test.json --save_json_file predictions.json --img_root_dir images/
    """
    given = {
        "INPUT_JSON": (input_json, input_json_file),
        "SAVE_JSON": (save_json, save_json_file),
        "IMG_ROOT": (img_root, img_root_dir),
    }
    source, target, root = (_one(name, *values) for name, values in given.items())
    return _run(call, _studies(source), target, root)


def _one(name: str, position: Path | None, flag: Path | None) -> Path:
    found = [value for value in (position, flag) if value is not None]
    if len(found) != 1:
        raise SettingsError(f"{len(found)} times", where=name, expected="once: in its position or by its flag")
    return found[0]


def _studies(path: Path) -> dict[str, dict[str, Any]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(Reason.NOT_FOUND, f"cannot be read ({error.strerror})", where=path.name) from None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not all(isinstance(one, dict) for one in values.values()):
        raise DataError(Reason.BAD_RECORD, "no studies", where=path.name, expected="a JSON object: id to study")
    return values


def _run(call: Call[GenerateReportSettings], studies: dict[str, dict[str, Any]], target: Path, root: Path) -> int:
    from chexmix_cli.commands.records.output_paths import write_file
    from chexmix_cli.commands.shared.stopping import StopRequests
    from chexmix_cli.library.jobs.batches import run_batches
    from chexmix_cli.library.reports import Reporter

    settings, console = call.settings, call.console
    model = call.options.open_model(settings.input, quantize=settings.quantize)
    reporter = Reporter(model, settings.decode, None, seed=call.options.seed)
    batches = run_batches(
        _jobs(studies, root, model.reader()),
        reporter,
        batch_size=settings.input.batch_size,
        workers=settings.input.workers,
    )
    stopped: KeyboardInterrupt | None = None
    done = 0
    with StopRequests() as stops:
        try:
            with console.progress("reports") as move, closing(batches) as results:
                for number, (job, result) in enumerate(results, start=1):
                    if isinstance(result, ChexmixError):
                        console.note(f"{job.id}: no report ({result})")
                        studies[job.id]["model_prediction"] = ""
                    else:
                        studies[job.id]["model_prediction"] = result.text or ""
                        done += 1
                    move(number, len(studies))
        except KeyboardInterrupt as error:
            stopped = error
        stops.hold()
        write_file(target, (json.dumps(studies, indent=1, ensure_ascii=False) + "\n").encode())
    console.note(f"{target}: {done} of {len(studies)} studies have a report")
    if stopped is not None:
        console.note("stopped; to go on, give the studies that have no model_prediction")
        raise stopped
    return ExitCode.DONE if done == len(studies) else ExitCode.PARTIAL if done else ExitCode.FAILED


def _jobs(studies: Mapping[str, Mapping[str, Any]], root: Path, reader: FilmReader) -> Iterator[Job[Film]]:
    for study_id, study in studies.items():
        image = _frontal(study)
        yield reader.record_job({"id": study_id} | ({} if image is None else {"file": str(root / image)}))


def _frontal(study: Mapping[str, Any]) -> str | None:
    """Return the study's frontal image: the one it names, else the first that is called frontal, else the first."""
    key, images, kinds = study.get("key_image_path"), study.get("image_path") or [], study.get("frontal_lateral") or []
    if isinstance(key, str) and key:
        return key.lstrip("/")
    named = [image for image, kind in zip(images, kinds, strict=False) if str(kind).lower().startswith("frontal")]
    found = next((image for image in (*named, *images) if isinstance(image, str)), None)
    return None if found is None else found.lstrip("/")
