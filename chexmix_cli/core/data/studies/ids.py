"""Names for records: of a picture its file name, of a DICOM study or image a salted hash, each unique in a run.

The salt is ``CHEXMIX_ID_SALT``, else a random one made once a machine and kept where only its owner reads it. Whoever
has no salt cannot tell from an id whether it belongs to a UID they know.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from chexmix_cli.core.errors import DataError, MachineError, Reason, SettingsError

_SALT_VARIABLE = "CHEXMIX_ID_SALT"
_HOME_VARIABLE = "CHEXMIX_HOME"
_SALT_BYTES = 32
_DIGEST_BYTES = 10


class IdMaker:
    """Makes the ids of one run. The salt is read, or made, when the first hash is asked for.

    Args:
        keep_uids: give UIDs as they are.
    """

    def __init__(self, *, keep_uids: bool = False) -> None:
        self._keep_uids = keep_uids
        self._key: bytes | None = None
        self._uses: Counter[str] = Counter()

    def of_uid(self, uid: str) -> str:
        """Return the id of a DICOM UID."""
        return uid if self._keep_uids else self.of_secret(uid)

    def of_secret(self, text: str) -> str:
        """Return the salted hash of anything, 20 hexadecimal digits."""
        if self._key is None:
            self._key = blake2b(_salt()).digest()
        return blake2b(text.encode(errors="surrogateescape"), key=self._key, digest_size=_DIGEST_BYTES).hexdigest()

    def unique(self, name: str) -> str:
        """Return a name, with ``#2``, ``#3`` after it where it was given before."""
        while True:
            self._uses[name] += 1
            if self._uses[name] == 1:
                return name
            numbered = f"{name}#{self._uses[name]}"
            if self._uses[numbered] == 0:
                self._uses[numbered] = 1
                return numbered


def unknown_ids(item_ids: Iterable[str], known: Collection[str], what: str) -> list[tuple[str, DataError]]:
    """Return those of some ids that are not known, each with the error that says so.

    Args:
        item_ids: of predictions, say.
        known: ids that are there.
        what: has none of that id, for the message: ``no row``.
    """
    unknown = [item_id for item_id in item_ids if item_id not in known]
    bare = {_bare(item_id) for item_id in known} if unknown else set()
    near = "leading zeros, or .0 behind a number, were lost or added on the way"
    return [
        (item_id, DataError(Reason.NOT_FOUND, f"{what} has this id", hint=near if _bare(item_id) in bare else None))
        for item_id in unknown
    ]


def _bare(item_id: str) -> str:
    """Return an id without what spreadsheets and pandas take from numbers or add to them."""
    return item_id.removesuffix(".0").lstrip("0")


def _salt() -> bytes:
    given = os.environ.get(_SALT_VARIABLE)
    if given is not None:
        if not given:
            raise SettingsError("is empty", where=_SALT_VARIABLE, expected="a secret text")
        return given.encode(errors="surrogateescape")
    home = os.environ.get(_HOME_VARIABLE)
    path = (Path(home) if home else Path.home() / ".local" / "state" / "chexmix") / "id-salt"
    try:
        return _read_or_make(path)
    except OSError as error:
        raise MachineError(
            f"the salt of record ids cannot be kept ({error.strerror})",
            where=str(path),
            hint=f"set {_SALT_VARIABLE} to a secret text, or {_HOME_VARIABLE} to a folder that can be written",
        ) from None


def _read_or_make(path: Path) -> bytes:
    """Return the salt of a file. If there is none, write it under another name first: two runs may start at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_hex(_SALT_BYTES).encode())
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    salt = path.read_bytes().strip()
    if not salt:
        raise SettingsError("the file of the salt is empty", where=str(path), hint="remove it; a new salt is made then")
    return salt
