"""Which decoder reads which transfer syntax, and GDCM for what pydicom does not ask it for.

None of the decoders named first is under the GPL. What cannot be decoded is named, as far as DICOM has a name for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from chexmix_cli.core.data.dicom.codestream import Coding, FrameHeader
from chexmix_cli.core.data.dicom.file import quiet
from chexmix_cli.core.errors import DataError, Reason

#: Names of pydicom's plug-ins, the first available one decodes, and the package that brings the first. pylibjpeg reads
#: JPEG only with the extra ``libjpeg-gpl``: for systems without a wheel of GDCM.
_GDCM = (("gdcm", "pylibjpeg"), "python-gdcm")
_OPENJPEG = (("pylibjpeg",), "pylibjpeg-openjpeg")
_DECODERS: dict[str, tuple[tuple[str, ...], str]] = {
    JPEGBaseline8Bit: (("pillow",), "pillow"),
    **dict.fromkeys((JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless), _GDCM),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), _OPENJPEG),
}
#: Transfer syntaxes that a codestream may be in; the first is taken if a file states one of another coding.
_SYNTAXES: dict[Coding, tuple[str, ...]] = {
    "jpeg-lossless": (JPEGLossless, JPEGLosslessSV1),
    "jpeg-ls": (JPEGLSLossless, JPEGLSNearLossless),
    "jpeg-2000": (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL),
}
#: Younger than pydicom's dictionary.
_YOUNG_SYNTAXES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}


def require_decoder(syntax: UID) -> None:
    """Check that a transfer syntax can be decoded here.

    Raises:
        DataError: ``UNSUPPORTED_PIXELS``, with ``JPEG-XL`` as its detail where that is what it is; ``NEEDS_PLUGIN``.
    """
    is_public = syntax.type == "Transfer Syntax"
    if syntax == RLELossless or (is_public and not syntax.is_encapsulated):
        return
    if syntax not in _DECODERS:
        # What no dictionary has is free text of a header, and not repeated.
        name = _YOUNG_SYNTAXES.get(syntax, syntax.name if is_public else None)
        name = "a transfer syntax without a public name" if name is None else f"{name} ({syntax})"
        detail = "JPEG-XL" if name.startswith("JPEG XL") else None
        raise DataError(
            Reason.UNSUPPORTED_PIXELS,
            f"{name} is not decoded",
            detail=detail,
            expected="JPEG, JPEG 2000, RLE or native",
        )
    plugin_of(syntax)


def decodable_syntaxes() -> list[str]:
    """Return the UIDs of the transfer syntaxes that can be decoded here, native ones first."""
    native = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
    found: list[str] = [*native, RLELossless]
    for syntax in _DECODERS:
        with suppress(DataError):
            plugin_of(UID(syntax))
            found.append(syntax)
    return found


def plugin_of(syntax: UID) -> str:
    """Return the name of pydicom's plug-in that decodes a compressed syntax.

    Raises:
        DataError: ``NEEDS_PLUGIN``, with the package as its detail.
    """
    names, package = _DECODERS[syntax]
    with quiet():
        available = get_decoder(syntax).available_plugins
    for name in names:
        if name in available:
            return name
    raise DataError(
        Reason.NEEDS_PLUGIN,
        "no decoder for this compression is installed",
        detail=package,
        hint=f"pip install {package}",
    )


def syntax_of(header: FrameHeader, stated: UID) -> UID:
    """Return the transfer syntax that a codestream is in: the stated one unless the stream shows another."""
    if header.coding == "jpeg":
        return JPEGBaseline8Bit if header.precision == 8 else JPEGExtended12Bit
    syntaxes = _SYNTAXES[header.coding]
    return stated if stated in syntaxes else UID(syntaxes[0])


def decode_twelve_bits(stream: bytes, header: FrameHeader) -> bytes:
    """Return a grey 12-bit JPEG frame (lossy) as little-endian 16-bit samples.

    GDCM has a JPEG library for 12 bits; pydicom's plug-in does not ask it.

    Raises:
        ValueError: if GDCM cannot decode it.
    """
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((header.columns, header.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, header.precision, header.precision - 1, 0))
    # Its bytes come as text, with what is no UTF-8 escaped.
    samples = image.GetBuffer().encode("utf-8", "surrogateescape")
    if len(samples) != 2 * header.rows * header.columns:
        raise ValueError("the frame is not decoded whole")
    return np.frombuffer(samples, "=u2").astype("<u2").tobytes()


@contextmanager
def silent_codecs() -> Iterator[None]:
    """Keep what the C libraries write from the terminal: JPEG's prints its complaints on file descriptor 2."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: nothing to keep quiet
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
