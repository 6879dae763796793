"""Who may ask a server over HTTP: whoever brings its token or, where it has none, this machine by its own name."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from pathlib import Path

from chexmix_cli.core.errors import SettingsError

#: Where the token is looked for if no file is named.
TOKEN_VARIABLE = "CHEXMIX_TOKEN"
_SHORTEST_TOKEN = 16
#: Names that a browser or client on this machine has for it.
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
_MAKES_ONE = "openssl rand -hex 32 makes one"


class Access:
    """Holds requests against a token.

    Args:
        token: that requests must bring, or None: then they must come from this machine, by its own name.
    """

    def __init__(self, token: str | None) -> None:
        self._digest = None if token is None else _digest(token)

    def refusal(self, *, authorization: str, host: str) -> tuple[str, str] | None:
        """Return code and message for a request that is refused, by its headers of these names; None lets it in."""
        if self._digest is not None:
            kind, _, given = authorization.partition(" ")
            is_right = hmac.compare_digest(_digest(given.strip()), self._digest)
            if kind.lower() != "bearer" or not is_right:
                return "BAD_TOKEN", "a missing or wrong token; expected Authorization: Bearer TOKEN"
            return None
        # A web page may be open on this machine whose own name was made to lead here (DNS rebinding).
        name = host.lower()
        if not any(name == own or name.startswith(f"{own}:") for own in _OWN_NAMES):
            expected = "localhost; from elsewhere a token is needed"
            return "FOREIGN_HOST", f"the request is for another host; expected {expected}"
        return None


def read_token(file: Path | None, host: str, *, flag: str, host_name: str) -> str | None:
    """Return the token that requests must bring, or None where only this machine is listened to and none is set.

    Args:
        file: that holds it; None: the environment is asked.
        host: that is listened on.
        flag, host_name: what names the file and the host, for messages.

    Raises:
        SettingsError: if there has to be one and is none, or it is no good.
    """
    token, where = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    if file is not None:
        where = flag
        try:
            token = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"cannot be read ({type(error).__name__})", where=where) from None
    if not token:
        if file is None and is_own(host):
            return None
        raise SettingsError(
            "other machines would be let in without a token" if file is None else "holds no token",
            where=host_name if file is None else where,
            expected=f"{flag} or {TOKEN_VARIABLE}",
            hint=_MAKES_ONE,
        )
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or any(letter.isspace() for letter in token):
        expected = f"at least {_SHORTEST_TOKEN} ASCII letters and digits without blanks"
        raise SettingsError("is no token", where=where, expected=expected, hint=_MAKES_ONE)
    return token


def is_own(host: str) -> bool:
    """Return whether only this machine can reach what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(token: str) -> bytes:
    # Of one length, so that the comparison tells nothing of the token's.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
