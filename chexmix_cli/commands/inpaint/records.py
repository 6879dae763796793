"""The records and pictures of ``chexmix inpaint``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chexmix_cli.commands.records.output_paths import OutputPaths, write_file
from chexmix_cli.commands.records.record_page import RecordPage
from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.library.films import Film
from chexmix_cli.library.inpainting import FilledFilm, Inpainter, panels, png
from chexmix_cli.library.jobs.job import Record

_JOINED = {"blend": "film's pixels kept, fill blended in", "paste": "film's pixels kept", "none": "drawn whole"}


class InpaintRecords:
    """Filled films as records, with their pictures.

    Args:
        inpainter: fills films.
        out: file or folder of results, or None.
        provenance: the further fields of every record.
        page: shows films and fills, or None.
    """

    def __init__(
        self, inpainter: Inpainter, out: Path | None, provenance: Record, page: RecordPage | None = None
    ) -> None:
        self._inpainter, self._provenance, self._page = inpainter, provenance, page
        self._paths: OutputPaths | None = None
        self._writes_dicom = False
        if out is not None:
            as_dicom = inpainter.settings.picture.format == "dicom"
            self._paths = OutputPaths(out, (".dcm", ".png") if as_dicom else (".png", ".dcm"))
            self._writes_dicom = out.suffix.lower() == ".dcm" if self._paths.is_file else as_dicom
        self._agreements: dict[str, list[float]] = {"ring": [], "beyond": []}

    def process(self, films: list[Film]) -> list[Record]:
        """Return the result fields of a batch, and write its pictures."""
        if self._writes_dicom:
            for film in films:
                _require_dicom(film)
        records = []
        for filled in self._inpainter(films):
            record = filled.fields()
            if self._paths is not None:
                self._write(self._paths, filled, record)
            if self._page is not None:
                _show(filled, self._page)
            for name, values in self._agreements.items():
                agreement = record["audit"][name]["agreement"]
                values += [] if agreement is None else [agreement]
            records.append({**record, **self._provenance})
        return records

    def describe(self, record: Record) -> str:
        """Return the readable form of a record."""
        psnr, ssim, ceiling = record["psnr"], record["ssim"], record["ceiling"]
        joined = _JOINED[record["joined"]]
        lines = [
            f"{record['id']}: {record['mask']['share']:.1%} hidden, {record['protocol']}, {record['strategy']}",
            f"    hidden part  {_db(psnr['masked']['original'])} SSIM {ssim['masked']['original']:.3f}"
            f"   (of the codes: {_db(psnr['masked']['roundtrip'])}; ceiling {_db(ceiling['psnr']['masked'])})",
            f"    whole film   {_db(psnr['whole']['original'])} SSIM {ssim['whole']['original']:.3f}"
            f"   (of the codes: {_db(psnr['whole']['roundtrip'])}; ceiling {_db(ceiling['psnr']['whole'])}), {joined}",
            f"    leak audit   {_audit_text(record['audit'])}",
        ]
        lines += [f"    note: {note}" for note in record.get("notes", [])]
        lines += [f"    {name}: {record[name]}" for name in ("picture", "panels") if name in record]
        return "\n".join(lines)

    def audit_summary(self) -> str | None:
        """Return one line on how much visible codes reveal of hidden pixels, or None if nothing was done."""
        means = {name: sum(values) / len(values) for name, values in self._agreements.items() if values}
        if not means:
            return None
        parts = [
            f"{means[name]:.1%} of the codes {where}"
            for name, where in (("ring", "around it"), ("beyond", "further away"))
            if name in means
        ]
        return f"leak audit: {' and '.join(parts)} are the same with and without the hidden part"

    def _write(self, paths: OutputPaths, filled: FilledFilm, record: Record) -> None:
        path = paths.path(filled.id)
        _spare_input(path, filled.film)
        write_file(path, self._inpainter.dicom(filled) if self._writes_dicom else png(filled.picture_YX))
        record["picture"] = str(path)
        for number, (sample_YX, fields) in enumerate(
            zip(filled.samples, record.get("samples", []), strict=True), start=1
        ):
            sample_path = paths.beside(path, f"sample{number}")
            write_file(sample_path, png(sample_YX))
            fields["picture"] = str(sample_path)
        if self._inpainter.settings.picture.panels:
            panels_path = paths.beside(path, "panels")
            write_file(panels_path, panels(filled, _caption(record)))
            record["panels"] = str(panels_path)


def _show(filled: FilledFilm, page: RecordPage) -> None:
    """Put a film on a page, whole, as the model saw it, and filled."""
    from chexmix_cli.core.present.marking import with_mark

    page.show(filled.id, "film", filled.encoded.original_YX)
    page.show(filled.id, "its visible part", filled.encoded.masked_YX)
    page.show(filled.id, "filled by the model", with_mark(filled.picture_YX))


def _require_dicom(film: Film) -> None:
    if film.image is not None and not film.image.is_dicom:
        raise DataError(
            Reason.UNKNOWN_FORMAT, "is no DICOM file, so no DICOM image can be derived of it", expected="a .png OUT"
        )


def _spare_input(path: Path, film: Film) -> None:
    """Raise SettingsError if a result would replace the film it was made of."""
    assert film.image is not None
    source = film.image.source.path
    if path.exists() and source.exists() and path.samefile(source):
        raise SettingsError("is the input itself", where="--out", expected="another file")


def _db(value: float | None) -> str:
    return "equal" if value is None else f"{value:.2f} dB"


def _audit_text(audit: Mapping[str, Any]) -> str:
    parts = []
    for name, where in (("ring", "around it"), ("beyond", "further away")):
        if audit[name]["agreement"] is not None:
            parts.append(f"{audit[name]['agreement']:.1%} of {audit[name]['codes']} codes {where}")
    return f"{' and '.join(parts) or 'no code'} the same without the hidden part"


def _caption(record: Record) -> str:
    psnr, ssim = record["psnr"]["masked"]["original"], record["ssim"]["masked"]["original"]
    return (
        f"{record['mask']['share']:.0%} hidden, {record['protocol']}, {record['strategy']}: hidden part {_db(psnr)},"
        f" SSIM {ssim:.3f}; ceiling of the codes {_db(record['ceiling']['psnr']['masked'])}"
    )
