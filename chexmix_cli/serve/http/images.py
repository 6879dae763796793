"""Films inside requests: ``data:`` URLs to bytes. Nothing is ever fetched."""

from __future__ import annotations

import base64
import binascii
import re

from chexmix_cli.core.data.sources import sniff
from chexmix_cli.core.errors import Reason
from chexmix_cli.serve.http.errors import RefusedError

#: Enough for :func:`sniff`.
_HEAD_BYTES = 256
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
_DICOM = "application/dicom"
#: Media types of films in requests.
MEDIA_TYPES = (*_MAGIC, _DICOM)
_EXPECTED = f"data:TYPE;base64,... with TYPE one of {', '.join(MEDIA_TYPES)}"


def read_data_url(url: str, param: str) -> bytes:
    """Return the bytes of a film that a request holds.

    Args:
        url: RFC 2397, in base64.
        param: the request's field, for errors.

    Raises:
        RefusedError: ``REMOTE_IMAGE``, ``BAD_IMAGE_URL``; ``UNKNOWN_FORMAT`` if the bytes are not what the URL says.
    """
    scheme = _SCHEME.match(url)
    if scheme is None or scheme[1].lower() != "data":
        if scheme is None:
            raise RefusedError("BAD_IMAGE_URL", f"the image is no URL; expected {_EXPECTED}", param=param)
        raise RefusedError("REMOTE_IMAGE", f"images are never fetched; expected {_EXPECTED}", param=param)
    head, _, text = url[len("data:") :].partition(",")
    media, *parameters = head.lower().split(";")
    if media not in MEDIA_TYPES or parameters != ["base64"]:
        raise RefusedError("BAD_IMAGE_URL", f"a media type that is not read; expected {_EXPECTED}", param=param)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError("BAD_IMAGE_URL", "the image is not base64", param=param) from None
    is_it = sniff(data[:_HEAD_BYTES]) == "dicom" if media == _DICOM else data.startswith(_MAGIC[media])
    if not is_it:
        raise RefusedError(Reason.UNKNOWN_FORMAT, f"the image is declared as {media} and is none", param=param)
    return data
