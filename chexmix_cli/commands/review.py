"""``chexmix review``: studies, their films and draft reports on one page, for a reader to go through."""

from __future__ import annotations

from collections.abc import Sized
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chexmix_cli.commands.records.streams import check_arguments
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, Inputs, Preset, RunOptions
from chexmix_cli.core.errors import ChexmixError, ExitCode, SettingsError, counted
from chexmix_cli.core.settings.inference import ReviewSettings

if TYPE_CHECKING:
    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.library.review import Review

_ENDINGS = (".html", ".htm")

Out = Annotated[Path, typer.Option("--out", "-o", metavar="HTML", help="Write the page there.", show_default=False)]
Explain = Annotated[bool, typer.Option("--explain", help="Say what each sentence of a report rests on.")]


@command(ReviewSettings, *MODEL, "seed", "fail_fast", "keep_uids")
def review(
    call: Call[ReviewSettings],
    out: Out,
    inputs: Inputs = None,
    explain: Explain = False,
    preset: Preset = None,
) -> int:
    """Write one page to go through films and draft reports, and to correct them.

    The page works without a network. A reader accepts, edits or rejects each draft and exports that as JSON Lines or
    CSV, which `chexmix finetune` and `chexmix evaluate report --references` read. It names files: it is for their
    owner.

    Examples:

        chexmix review films/ -o films/review.html

        chexmix review films/ -o films/review.html --explain --set page.film_px=768
    """
    if out.suffix.lower() not in _ENDINGS:
        raise SettingsError(f"{out.name!r} is no page", where="--out", expected=f"a name that ends in {_ENDINGS[0]}")
    return _run(check_arguments(inputs), call.options, call.settings, out, is_explained=explain)


def _run(inputs: list[str], run: RunOptions, settings: ReviewSettings, out: Path, *, is_explained: bool) -> int:
    from chexmix_cli.commands.records.film_jobs import film_jobs
    from chexmix_cli.commands.records.parts import refuse_repeats
    from chexmix_cli.commands.shared.stopping import StopRequests
    from chexmix_cli.library.jobs.batches import run_batches
    from chexmix_cli.library.reports import MARK, Reporter
    from chexmix_cli.library.review import Review, naming_folder

    model = run.open_model(settings.input)
    reporter = Reporter(model, settings.decode, settings.explain if is_explained else None, seed=run.seed)
    folder, is_beside = naming_folder(inputs, out)
    found = Review(reporter, settings.page, folder, is_beside=is_beside)
    run.console.note(MARK)
    reader = model.reader(keep_uids=run.keep_uids, keeps_picture=True)
    jobs = film_jobs(inputs, reader, counted=run.console.shows_progress)
    total = len(jobs) if isinstance(jobs, Sized) else None
    batches = run_batches(
        # Decisions are kept by id.
        refuse_repeats(iter(jobs)),
        found.process,
        batch_size=settings.input.batch_size,
        workers=settings.input.workers,
        stops_at_error=run.fail_fast,
    )
    with StopRequests() as stops:
        try:
            with run.console.progress("studies") as move, closing(batches) as results:
                for number, (job, result) in enumerate(results, start=1):
                    if isinstance(result, ChexmixError) and run.fail_fast:
                        raise result
                    found.add(job, result)
                    move(number, total)
        except KeyboardInterrupt:
            stops.hold()
            if found.studies:
                _write(found, out, run.console)
                run.console.note("stopped; for the others, give the inputs that are left, and another page for them")
            raise
        _write(found, out, run.console)
    if not found.num_refused:
        return ExitCode.DONE
    return ExitCode.PARTIAL if found.num_refused < len(found.studies) else ExitCode.FAILED


def _write(found: Review, out: Path, console: Console) -> None:
    """Write the page of all studies so far, and say what it holds."""
    from chexmix_cli.commands.records.output_paths import write_file

    content = found.page().encode()
    write_file(out, content)
    conflicts = sum(bool(study.record.get("conflicts")) for study in found.studies)
    counts = f"{counted(len(found.studies), 'study')}, {conflicts} with conflicts, {found.num_refused} refused"
    console.note(f"{out}: {counts}; {len(content) / 1e6:.1f} MB. It names files, which may name patients")
