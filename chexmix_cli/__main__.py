"""Entry point of ``chexmix`` and ``python -m chexmix_cli``: runs the app, turns errors into exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback

from chexmix_cli.commands.console import print_error
from chexmix_cli.core.errors import ChexmixError, ExitCode


def main(arguments: list[str] | None = None) -> None:
    """Run one command line (default: the process's own) and exit with its documented code."""
    if hasattr(signal, "SIGPIPE"):
        # Like every filter: `chexmix tokenize DIR | head -1` ends silently when head has read enough.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    code = run(sys.argv[1:] if arguments is None else arguments)
    sys.stdout.flush()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are printed on stderr."""
    import typer

    from chexmix_cli.app import app

    # Typer brings a click of its own in newer versions; the base of its usage errors is right in all of them.
    usage_error = typer.BadParameter.__bases__[0]

    verbose = any(argument in ("-v", "--verbose") for argument in arguments)
    try:
        result = typer.main.get_command(app).main(args=arguments, prog_name="chexmix", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        print_error("interrupted")
        return ExitCode.INTERRUPTED
    except ChexmixError as error:
        print_error(str(error), error.hint)
        if verbose:
            traceback.print_exc()
        return error.exit_code
    except MemoryError:
        print_error("not enough memory", "a smaller --set input.batch_size needs less")
        return ExitCode.ENVIRONMENT
    except Exception as error:
        if isinstance(error, usage_error):
            error.show()  # type: ignore[attr-defined]
            return ExitCode.USAGE
        return _unexpected(error, verbose)
    return int(result) if isinstance(result, int) else ExitCode.DONE


def _unexpected(error: Exception, verbose: bool) -> int:
    # The message of a foreign exception may quote its input: it is shown only on request.
    if verbose or os.environ.get("CHEXMIX_DEBUG"):
        traceback.print_exc()
    print_error(
        f"unexpected {type(error).__name__}: this is a bug of chexmix",
        "run again with -v for the traceback, and report it",
    )
    return ExitCode.BUG


if __name__ == "__main__":
    main()
