"""The records and pictures of ``chexmix inpaint``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexmix_cli.commands.evaluate.output import write_file
from chexmix_cli.commands.records.film_jobs import Film
from chexmix_cli.commands.records.output_paths import OutputPaths
from chexmix_cli.commands.records.streams import Record
from chexmix_cli.commands.shared.model import OpenModel
from chexmix_cli.core.data.images.geometry import unfit
from chexmix_cli.core.errors import DataError, Reason, SettingsError

if TYPE_CHECKING:
    from chexmix_cli.core.infer.inpainting.masked_film import AnyMask, MaskedFilm
    from chexmix_cli.core.infer.inpainting.restorer import EncodedFilm
    from chexmix_cli.core.settings.inpainting import InpaintSettings

MARK = "AI-generated in part, preliminary, unverified; not for clinical use"
_JOINED = {"blend": "film's pixels kept, fill blended in", "paste": "film's pixels kept", "none": "drawn whole"}
#: Presets whose grey scale hangs on nothing but the header.
_FIXED_SCALES = ("voi", "official-jpg")


class Inpainting:
    """Turns films into filled ones.

    Args:
        model: with decoder and image tokenizer.
        settings: of the command.
        mask: what is hidden.
        out: file or folder of results, or None.
    """

    def __init__(self, model: OpenModel, settings: InpaintSettings, mask: AnyMask, out: Path | None) -> None:
        self._model, self._settings, self._mask = model, settings, mask
        self._paths: OutputPaths | None = None
        self._writes_dicom = False
        if out is not None:
            as_dicom = settings.picture.format == "dicom"
            self._paths = OutputPaths(out, (".dcm", ".png") if as_dicom else (".png", ".dcm"))
            self._writes_dicom = out.suffix.lower() == ".dcm" if self._paths.is_file else as_dicom
        self._restorer = model.restorer
        self._agreements: dict[str, list[float]] = {"ring": [], "beyond": []}

    def process(self, items: list[tuple[str, Film]]) -> list[Record]:
        """Return the result fields of a batch, and write its pictures."""
        from chexmix_cli.core.evals.inpainting.scores import Scorer

        region, fill, shown = self._settings.region, self._settings.fill, self._settings.picture
        masked = [self._masked(record_id, film) for record_id, film in items]
        encoded = self._restorer.encode(masked, region)
        restored = self._restorer.fill(encoded, fill, seed=self._model.options.seed)
        records: list[Record] = []
        for (record_id, film), one, result in zip(items, encoded, restored, strict=True):
            scorer = Scorer(one)
            drawn = [result.filled_YX, *result.samples]
            picture, *samples = one.join(drawn, shown.join, detail=shown.detail)
            record: Record = {
                **film.fields,
                "mask": self._mask_fields(one.film),
                "protocol": region.protocol,
                "strategy": fill.strategy,
                "choice": fill.choice,
                "joined": shown.join,
                "size_px": len(picture),
                **scorer.record(picture),
                "code_accuracy": scorer.code_accuracy(result.codes_P),
                "audit": one.audit(),
                "mark": MARK,
            }
            notes = [*film.fields.get("notes", []), *self._notes(film)]
            if notes:
                record["notes"] = notes
            if samples:
                record["samples"] = [{"psnr": dict(scorer.against(each, "original").psnr)} for each in samples]
            if self._paths is not None:
                self._write(self._paths, record_id, film, one, picture, samples, record)
            for name, values in self._agreements.items():
                agreement = record["audit"][name]["agreement"]
                values += [] if agreement is None else [agreement]
            records.append({**record, **self._model.provenance()})
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
        """Return one line on how much visible codes know of hidden pixels, or None if nothing was done."""
        means = {name: sum(values) / len(values) for name, values in self._agreements.items() if values}
        if not means:
            return None
        parts = [
            f"{means[name]:.1%} of the codes {where}"
            for name, where in (("ring", "around it"), ("beyond", "further off"))
            if name in means
        ]
        return f"leak audit: without the hidden part, {' and '.join(parts)} stay what they are with it"

    def _masked(self, record_id: str, film: Film) -> MaskedFilm:
        from chexmix_cli.core.infer.inpainting.masked_film import mask_film

        if film.picture is None or film.image is None:
            raise DataError(
                Reason.BAD_RECORD,
                "codes without a film",
                expected="files, or manifest lines",
                hint="what is hidden is blanked in pixels, before it is encoded",
            )
        if self._writes_dicom and not film.image.is_dicom:
            raise DataError(
                Reason.UNKNOWN_FORMAT, "is no DICOM file, so no DICOM image can be derived of it", expected="a .png OUT"
            )
        return mask_film(
            film.picture,
            self._mask,
            self._model.preset,
            self._settings.region,
            grid_size=self._model.weights.settings.grid_size,
            seed=self._model.options.seed,
            key=record_id,
        )

    def _mask_fields(self, film: MaskedFilm) -> dict[str, Any]:
        region = self._settings.region
        share = float(film.is_hidden_YX.sum() / film.is_film_YX.sum())
        found = {**film.mask, "share": share}
        return found | ({"ring": region.ring, "blank": region.blank} if region.protocol == "leak-free" else {})

    def _notes(self, film: Film) -> list[str]:
        is_fixed = self._model.preset.intensity in _FIXED_SCALES
        by_percentiles = any("percentiles" in note for note in film.fields.get("notes", []))
        if is_fixed and not by_percentiles:
            return []
        return ["the grey scale is that of the whole film, hidden pixels included"]

    def _write(
        self,
        paths: OutputPaths,
        record_id: str,
        film: Film,
        encoded: EncodedFilm,
        picture: NDArray[np.uint8],
        samples: list[NDArray[np.uint8]],
        record: Record,
    ) -> None:
        from chexmix_cli.core.present.inpainting import panels_png
        from chexmix_cli.core.present.marking import marked_png

        path = paths.path(record_id)
        _spare_input(path, film)
        title = "Chest radiograph, hidden parts filled in by a model"
        if self._writes_dicom:
            write_file(path, self._dicom(film, encoded.film, picture))
        else:
            write_file(path, marked_png(picture, title))
        record["picture"] = str(path)
        for number, (sample, fields) in enumerate(zip(samples, record.get("samples", []), strict=True), start=1):
            sample_path = paths.beside(path, f"sample{number}")
            write_file(sample_path, marked_png(sample, title))
            fields["picture"] = str(sample_path)
        if self._settings.picture.panels:
            panels = paths.beside(path, "panels")
            caption = _caption(record)
            shown = (encoded.original_YX, encoded.masked_YX, encoded.film.is_hidden_YX, picture)
            write_file(panels, panels_png(*shown, caption))
            record["panels"] = str(panels)

    def _dicom(self, film: Film, masked: MaskedFilm, filled_YX: NDArray[np.uint8]) -> bytes:
        """Return the derived image, at the film's own size."""
        from chexmix_cli.core.data.dicom.file import parse_whole
        from chexmix_cli.core.present.derived_dicom import derived_dicom

        assert film.picture is not None
        assert film.image is not None
        whole = film.picture.convert("L")
        shown, corner = unfit(Image.fromarray(filled_YX), whole.size, self._model.preset.image)
        drawn = whole.copy()
        drawn.paste(shown, corner)
        picture = np.asarray(drawn)
        if self._settings.picture.join != "none":
            picture = np.where(masked.is_hidden_film, picture, np.asarray(whole))
        max_bytes = self._model.input.max_file_mb << 20
        source = parse_whole(film.image.source.read(max_bytes), max_bytes)
        region, fill = self._settings.region, self._settings.fill
        what = f"{region.protocol} mask {_short(masked.mask)}, {fill.strategy}, seed {self._model.options.seed}"
        return derived_dicom(source, picture, model=self._model.weights.name, what=what)


def _spare_input(path: Path, film: Film) -> None:
    """Raise SettingsError if a result would replace the film it was made of."""
    assert film.image is not None
    source = film.image.source.path
    if path.exists() and source.exists() and path.samefile(source):
        raise SettingsError("is the input itself", where="--out", expected="another file")


def _short(mask: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {value}" for name, value in mask.items() if name != "kind")


def _db(value: float | None) -> str:
    return "equal" if value is None else f"{value:.2f} dB"


def _audit_text(audit: Mapping[str, Any]) -> str:
    parts = []
    for name, where in (("ring", "around it"), ("beyond", "further off")):
        if audit[name]["agreement"] is not None:
            parts.append(f"{audit[name]['agreement']:.1%} of {audit[name]['codes']} codes {where}")
    return f"{' and '.join(parts) or 'no code'} the same without the hidden part"


def _caption(record: Record) -> str:
    psnr, ssim = record["psnr"]["masked"]["original"], record["ssim"]["masked"]["original"]
    return (
        f"{record['mask']['share']:.0%} hidden, {record['protocol']}, {record['strategy']}: hidden part {_db(psnr)},"
        f" SSIM {ssim:.3f}; ceiling of the codes {_db(record['ceiling']['psnr']['masked'])}"
    )
