"""From stored values to 8-bit grey, in DICOM's order.

Modality LUT or rescale, padding masked, VOI LUT or window, inversion. All of it is arithmetic on levels
(``levels.py``), in float64. pydicom decodes; its ``apply_modality_lut`` and ``apply_voi_lut`` are not used, for the
reasons given beside the functions of ``intensity.py`` that take their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexmix_cli.core.data.dicom.decode import Frame, PixelLayout, check_layout, decode
from chexmix_cli.core.data.dicom.file import DicomFile
from chexmix_cli.core.data.dicom.luts import read_lut
from chexmix_cli.core.data.dicom.orientation import is_upright, stored_directions, turn_upright
from chexmix_cli.core.data.dicom.triage import is_for_processing
from chexmix_cli.core.data.presets import Intensity
from chexmix_cli.core.data.rendering import intensity as recipes
from chexmix_cli.core.data.rendering.levels import Levels, count_levels, percentiles
from chexmix_cli.core.data.rendering.loaded_image import GreyScale, LoadedImage
from chexmix_cli.core.data.rendering.pose import estimate_pose
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

#: A window or LUT that leaves less than this of the grey scale between the 1st and 99th percentile shows no film.
_LEAST_CONTRAST = 16
_LEAST_GREYS = 16
#: Intensities that show a film as its file says.
_DISPLAYED: tuple[Intensity, ...] = ("voi", "official-jpg")
#: Share of a film that a window or LUT may make all black or white without a note.
_MUCH_CLIPPED = 0.25
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
#: ITU-R BT.601, as Pillow weighs.
_LUMA = np.array([0.299, 0.587, 0.114])
_SQUARE = (0.99, 1.01)
_PLAUSIBLE = (0.2, 5.0)


def render_dicom(file: DicomFile, settings: InputSettings, intensity: Intensity) -> LoadedImage:
    """Return a DICOM image as an 8-bit grey picture.

    Raises:
        DataError: as ``dicom_decode``; ``BLANK`` if the picture has one value only.
    """
    layout = check_layout(file, settings)
    notes: list[str] = []
    if layout.num_frames > 1:
        notes.append(f"frame {settings.frame} of {layout.num_frames}")
    decoded = decode(file, layout, settings.frame)
    array, layout = decoded.array, decoded.layout
    notes.extend(decoded.notes)
    if not layout.is_monochrome:
        return _render_colour(file, decoded, intensity, notes)
    levels = count_levels(array, _padding(file, layout, array))
    if levels.num_occurring == 0:
        raise DataError(Reason.BLANK, "every pixel is padding", expected="a picture")
    if levels.is_padding is not None:
        notes.append("padding is left out of the grey scale and painted black")
    is_inverted = layout.photometric == "MONOCHROME1" or (file.text("PresentationLUTShape") or "").upper() == "INVERSE"
    if _shows_bone_dark(file, is_inverted):
        notes.append("by the header, bone is shown dark")
    table_L, scale = _table(file, layout, levels, intensity, is_inverted, notes)
    image = _square_pixels(file, Image.fromarray(levels.paint(table_L)), intensity, notes)
    return LoadedImage(_upright(file, image, intensity, notes), notes, scale)


def _render_colour(file: DicomFile, frame: Frame, intensity: Intensity, notes: list[str]) -> LoadedImage:
    """Return colour as 8-bit grey; no modality or VOI transform applies to it. 8 bits are display values."""
    notes.append("colour image turned to grey")
    scale: GreyScale = "pixels"
    if frame.layout.bits_stored == 8:
        levels = count_levels(np.asarray(Image.fromarray(frame.array).convert("L")))
        if intensity in _DISPLAYED:
            scale = "header"
    else:
        levels = count_levels(frame.array @ _LUMA)
        if intensity in _DISPLAYED:
            notes.append(f"colour of {frame.layout.bits_stored} bits and no window: percentiles")
    stored_L = levels.stored_L
    table_L = stored_L.astype(np.uint8) if scale == "header" else table_of(intensity, stored_L, levels.counts_L)
    return LoadedImage(_upright(file, Image.fromarray(levels.paint(table_L)), intensity, notes), notes, scale)


def _upright(file: DicomFile, image: Image.Image, intensity: Intensity, notes: list[str]) -> Image.Image:
    """Return the picture turned as Patient Orientation says, unless it then plainly lies or is upside down.

    The released recipes take it as it is.
    """
    directions = stored_directions(file)
    if directions is None or is_upright(file):
        return image
    if intensity.startswith("official"):
        notes.append("the patient orientation is not followed by this preset")
        return image
    turned = turn_upright(np.asarray(image), directions)
    pose = estimate_pose(turned)
    if pose.is_sure and pose.quarter_turns != 0:
        notes.append("the patient orientation contradicts what the picture shows; left as it is stored")
        return image
    notes.append("turned as its patient orientation says")
    return Image.fromarray(turned)


def table_of(intensity: Intensity, stored_L: recipes.Values, counts_L: recipes.Counts) -> recipes.Table:
    """Return the table of a recipe that needs no DICOM attribute, for values that are not inverted.

    ``voi`` and ``official-jpg`` of values without a display transform are the percentile stretch.
    """
    if intensity == "mimic-jpg":
        return recipes.recipe_mimic(stored_L, counts_L, is_inverted=False)
    if intensity == "chexpert":
        return recipes.recipe_chexpert(stored_L, counts_L, is_inverted=False)
    if intensity in ("official", "official-png"):
        return recipes.stretch_official(stored_L, counts_L)
    return recipes.stretch_percentiles(stored_L, counts_L)


def _table(
    file: DicomFile, layout: PixelLayout, levels: Levels, intensity: Intensity, is_inverted: bool, notes: list[str]
) -> tuple[recipes.Table, GreyScale]:
    """Return the 8-bit grey of each level, and what decided it."""
    if intensity in ("mimic-jpg", "chexpert"):
        return _dataset_recipe(file, levels, intensity, is_inverted, notes), "pixels"
    values_L = _modality_values(file, levels, notes)
    if intensity in ("official", "official-png"):
        shown_L = -values_L if is_inverted else values_L
        return recipes.stretch_official(shown_L, levels.counts_L), "pixels"
    scale: GreyScale = "header"
    table_L = None
    if intensity in _DISPLAYED:
        table_L = _display_table(file, layout, levels, values_L, notes)
    if table_L is None:
        table_L, scale = recipes.stretch_percentiles(values_L, levels.counts_L), "pixels"
    return 255 - table_L if is_inverted else table_L, scale


def _dataset_recipe(
    file: DicomFile, levels: Levels, intensity: Intensity, is_inverted: bool, notes: list[str]
) -> recipes.Table:
    """Apply a data set's own recipe, which knows stored values and MONOCHROME1, but no rescale, padding or VOI."""
    if any(slope < 0 for slope in file.numbers("RescaleSlope")):
        notes.append(f"the {intensity} recipe ignores that the rescale slope is negative")
    if file.items("ModalityLUTSequence"):
        notes.append(f"the {intensity} recipe ignores the modality LUT")
    if intensity == "chexpert" and levels.stored_L[levels.counts_L > 0].min() < 0:
        notes.append("the chexpert recipe counts values below zero by their size")
    recipe = recipes.recipe_mimic if intensity == "mimic-jpg" else recipes.recipe_chexpert
    return recipe(levels.stored_L, levels.counts_L, is_inverted=is_inverted)


def _modality_values(file: DicomFile, levels: Levels, notes: list[str]) -> recipes.Values:
    """Return stored values after the modality LUT, else the rescale, else as they are.

    Of half a rescale the other half is that of no change (slope 1, intercept 0): for a DX image nothing else is allowed
    (PS3.3 table C.8-70). An impossible one is left out.
    """
    stored_L = levels.stored_L
    for item in file.items("ModalityLUTSequence"):
        lut = read_lut(item, "modality LUT", stored_L, levels, notes)
        if lut is None:
            raise DataError(Reason.CORRUPT, "the modality LUT is damaged")
        return recipes.look_up(stored_L, lut.entries, lut.first_mapped)
    slopes, intercepts = file.numbers("RescaleSlope"), file.numbers("RescaleIntercept")
    if not slopes and not intercepts:
        return stored_L
    slope, intercept = (slopes or [1.0])[0], (intercepts or [0.0])[0]
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        notes.append("the rescale is impossible and left out")
        return stored_L
    if not slopes or not intercepts:
        notes.append(
            f"the rescale has no {'slope' if not slopes else 'intercept'}; taken for {'1' if not slopes else '0'}"
        )
    return stored_L * slope + intercept


def _shows_bone_dark(file: DicomFile, is_inverted: bool) -> bool:
    """Return whether the header says that dense tissue is displayed dark, against custom; the picture stays as it is.

    Pixel Intensity Relationship Sign: 1 where higher values mean more X-rays, that is less tissue; -1 the other way.
    """
    sign = file.integer("PixelIntensityRelationshipSign")
    slopes = file.numbers("RescaleSlope")
    if sign not in (1, -1):
        return False
    is_falling = bool(slopes) and slopes[0] < 0
    return (sign == 1) != (is_inverted != is_falling)


def _display_table(
    file: DicomFile, layout: PixelLayout, levels: Levels, values_L: recipes.Values, notes: list[str]
) -> recipes.Table | None:
    """Return the first VOI transform that shows the film; None, with a note, if there is none."""
    if is_for_processing(file):
        notes.append("raw detector data: percentiles instead of a window")
        return None
    is_offered = False
    for share_L in _voi_shares(file, values_L, levels, notes):
        is_offered = True
        table_L = recipes.to_bytes(share_L)
        if _shows_film(table_L, levels):
            is_clipped_L = (share_L <= 0) | (share_L >= 1)
            clipped = levels.counts_L[is_clipped_L].sum() / levels.counts_L.sum()
            if clipped > _MUCH_CLIPPED:
                notes.append(f"the window clips {clipped:.0%} of the picture")
            return table_L
    if is_offered:
        notes.append("the window misses the data: percentiles instead")
        return None
    has_8_bits = layout.bits_stored == 8 and not layout.is_signed and np.array_equal(values_L, levels.stored_L)
    if has_8_bits:
        # As of a plain 8-bit picture, so that a film gives the same codes in and out of its DICOM wrapper.
        return levels.stored_L.astype(np.uint8)
    notes.append("no window in the header: percentiles instead")
    return None


def _voi_shares(
    file: DicomFile, values_L: recipes.Values, levels: Levels, notes: list[str]
) -> Iterator[recipes.Values]:
    """Yield 0..1 by the first VOI LUT, then by the first window: the order in which they are to be used.

    A window of no width yields black, which shows no film.
    """
    luts = file.items("VOILUTSequence")
    if luts:
        lut = read_lut(luts[0], "VOI LUT", values_L, levels, notes)
        if lut is None:
            notes.append("the VOI LUT is damaged")
        else:
            yield recipes.look_up(values_L, lut.entries, lut.first_mapped) / lut.top
    centers, widths = file.numbers("WindowCenter"), file.numbers("WindowWidth")
    if centers and widths:
        function = (file.text("VOILUTFunction") or "LINEAR").upper()
        if function not in _FUNCTIONS:
            notes.append("the VOI LUT function is not known; the window is taken for linear")
            function = "LINEAR"
        least = 1.0 if function == "LINEAR" else 0.0
        if not np.isfinite([centers[0], widths[0]]).all() or widths[0] < least or widths[0] <= 0:
            yield np.zeros_like(values_L)
        elif function == "SIGMOID":
            yield recipes.window_sigmoid(values_L, centers[0], widths[0])
        else:
            yield recipes.window_linear(values_L, centers[0], widths[0], is_exact=function == "LINEAR_EXACT")


def _shows_film(table_L: recipes.Table, levels: Levels) -> bool:
    """Tell whether a transform keeps enough of a picture: contrast, and greys if the picture has them."""
    low, high = percentiles(table_L.astype(np.float64), levels.counts_L, (1.0, 99.0))
    num_greys = len(np.unique(table_L[levels.counts_L > 0]))
    return high - low >= _LEAST_CONTRAST and num_greys >= min(_LEAST_GREYS, levels.num_occurring)


def _padding(file: DicomFile, layout: PixelLayout, array: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where stored values are the padding value, or between it and the padding range limit."""
    value, limit = file.integer("PixelPaddingValue"), file.integer("PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = sorted(_as_stored(number, layout) for number in (value, value if limit is None else limit))
    is_padding: NDArray[np.bool_] = (array >= ends[0]) & (array <= ends[1])
    return is_padding


def _as_stored(value: int, layout: PixelLayout) -> int:
    """Return a padding value in the pixels' own signedness: headers often write it in the other."""
    if layout.is_signed and value >= 1 << (layout.bits_allocated - 1):
        return value - (1 << layout.bits_allocated)
    if not layout.is_signed and value < 0:
        return value + (1 << layout.bits_allocated)
    return value


def _square_pixels(file: DicomFile, image: Image.Image, intensity: Intensity, notes: list[str]) -> Image.Image:
    """Return the picture with square pixels. The published recipes, which know no spacing, keep it as it is."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        spacing = file.numbers(keyword)
        if len(spacing) == 2 and all(np.isfinite(side) and side > 0 for side in spacing):
            break
    else:
        return image
    ratio = spacing[0] / spacing[1]
    if _SQUARE[0] <= ratio <= _SQUARE[1] or not _PLAUSIBLE[0] <= ratio <= _PLAUSIBLE[1]:
        return image
    if intensity not in ("voi", "percentile"):
        notes.append("pixels are not square; the preset ignores it")
        return image
    notes.append("pixels are not square; rows or columns were resampled")
    width, height = image.size
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    return image.resize(size, Image.Resampling.LANCZOS)
