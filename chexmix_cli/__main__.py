"""Entry point of ``chexmix`` and ``python -m chexmix_cli``: runs the app, turns errors into exit codes."""

from __future__ import annotations

import errno
import gc
import os
import re
import sys

from chexmix_cli.commands.shared.console import print_error
from chexmix_cli.core.errors import ChexmixError, ExitCode, told_traceback
from chexmix_cli.core.runtime import is_out_of_memory, keep_freed_memory, use_cores

#: What a shell shows of a filter whose reader has read enough: 128 and SIGPIPE.
_READER_GONE = 141
#: New objects between two searches for cycles; Python's 700 are for programs that make few.
_GC_OBJECTS = 10_000


def main(arguments: list[str] | None = None) -> None:
    """Run one command line (default: the process's own) and exit with its documented code."""
    use_cores()
    keep_freed_memory()
    # Looking through all that imports make for cycles takes longer than anything else in the first second.
    gc.set_threshold(_GC_OBJECTS)
    code = run(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            code = _READER_GONE
        # What could not be written (a full disk) must not be tried again by the interpreter on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or ExitCode.ENVIRONMENT
    # And the system frees it faster than the interpreter, which would look through it once more on its way out.
    gc.freeze()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are printed on stderr."""
    import typer

    from chexmix_cli.app import app
    from chexmix_cli.commands.shared.help import usage_problem

    # Typer brings a click of its own in newer versions; the base of its usage errors is right in all of them.
    usage_error = typer.BadParameter.__bases__[0]

    verbose = any(argument == "--verbose" or re.fullmatch("-[a-z]*v[a-z]*", argument) for argument in arguments)
    try:
        result = typer.main.get_command(app).main(args=arguments, prog_name="chexmix", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt) as error:
        # Typer raises Abort for an EOFError too, which in a command without questions is a bug.
        if isinstance(error.__cause__, EOFError):
            return _unexpected(error.__cause__, verbose)
        print_error("interrupted")
        return ExitCode.INTERRUPTED
    except SystemExit as error:
        # Like every filter: `chexmix tokenize DIR | head -1` ends silently. Typer exits with 1 then.
        if isinstance(error.__context__, BrokenPipeError):
            return _READER_GONE
        raise
    except ChexmixError as error:
        print_error(str(error), error.hint)
        if verbose:
            print(told_traceback(error), end="", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if isinstance(error, usage_error):
            problem = usage_problem(error)
            print_error(str(problem), problem.hint)
            return problem.exit_code
        return _foreign(error, verbose)
    if isinstance(result, ExitCode):
        return result
    if result == ExitCode.INTERRUPTED:
        # Newer versions of Typer make this of a KeyboardInterrupt, without a word.
        print_error("interrupted")
    return int(result or 0)


def _foreign(error: Exception, verbose: bool) -> int:
    """Tell apart what the machine refused (memory, disk, permissions) from a bug."""
    if is_out_of_memory(error):
        print_error("not enough memory", "a smaller batch size (see --show-config) needs less")
    elif isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename:
            print_error(f"the disk is full: {error.filename} could not be written", "free space, and run again")
        else:
            # Without the file's name: it may be a patient's.
            print_error(
                f"the system refused a file: {os.strerror(error.errno)}",
                "run again with -v and CHEXMIX_DEBUG=1 to see which",
            )
    else:
        return _unexpected(error, verbose)
    if verbose:
        print(told_traceback(error), end="", file=sys.stderr)
    return ExitCode.ENVIRONMENT


def _unexpected(error: BaseException, verbose: bool) -> int:
    # The message of a foreign exception may quote its input: neither here nor in the traceback is it shown.
    if verbose:
        print(told_traceback(error), end="", file=sys.stderr)
    print_error(
        f"unexpected {type(error).__name__}: this is a bug of chexmix",
        "run again with -v for the traceback, and report it",
    )
    return ExitCode.BUG


if __name__ == "__main__":
    main()
