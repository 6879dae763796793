"""Commands that stand in the app but are not built yet: they say so and fail, and pretend nothing."""

from __future__ import annotations

from chexmix_cli.core.errors import ChexmixError

#: Command to what it will do.
LATER = {
    "plan": "Tell whether a command will fit this machine, and how long it will take.",
}


class NotBuiltError(ChexmixError):
    """The command's work comes in a later version."""

    def __init__(self, command: str) -> None:
        super().__init__(
            f"`chexmix {command}` is not built yet",
            hint="the commands that are built: chexmix --help; README.md lists what comes next",
        )
