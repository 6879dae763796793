"""Named image presets: how stored pixels become 8-bit grey (intensity) and how the picture becomes square (geometry).

| name | intensity | geometry |
|---|---|---|
| ``voi`` | DICOM: its VOI LUT or window; plain 8-bit: as it is; no usable window: ``percentile``, noted | model |
| ``percentile`` | 0.5th to 99.5th percentile to black and white | model |
| ``mimic-jpg`` | the recipe of MIMIC-CXR-JPG: minimum and maximum, histogram equalisation | model |
| ``chexpert`` | the recipe of CheXpert: 0 and maximum, histogram equalisation | model |
| ``official-png`` | the released pipeline's PNG branch: 1st to 99th percentile | crop |
| ``official-jpg`` | the released pipeline's JPEG branch: no stretch | crop |
| ``official`` | ``official-jpg`` for JPEG files, ``official-png`` for all others | crop |
| ``model`` | whatever the model's ``ImageSettings`` name | model |

The released pipeline reads no DICOM. ``official`` and ``official-png`` treat one like a PNG written from it (modality
values, padding left out, MONOCHROME1 inverted, then the stretch); ``official-jpg`` like a JPEG that a viewer exported
(``voi``).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.model import Geometry, ImageSettings

Intensity = Literal["voi", "percentile", "mimic-jpg", "chexpert", "official-png", "official-jpg", "official"]

INTENSITIES: tuple[Intensity, ...] = get_args(Intensity)
PRESET_NAMES: tuple[str, ...] = (*INTENSITIES, "model")

#: Raised by one whenever a change anywhere on the way to the model's input alters its values.
PIXELS_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedPreset:
    """Everything that decides the values of a model input, given a file.

    Attributes:
        intensity: recipe from stored pixels to 8 bits.
        geometry, resolution_px: as in ``ImageSettings``.
        channels: 1 or 3, as the image tokenizer has.
        version: of the implementation (``PIXELS_VERSION``).
    """

    intensity: Intensity
    geometry: Geometry
    resolution_px: int
    channels: int
    version: int = PIXELS_VERSION

    @property
    def hash(self) -> str:
        """Return 12 hexadecimal digits; equal exactly when all fields are."""
        fields = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(fields.encode()).hexdigest()[:12]

    @property
    def image(self) -> ImageSettings:
        """Return the geometry as ``geometry.fit`` takes it."""
        return ImageSettings(resolution_px=self.resolution_px, intensity=self.intensity, geometry=self.geometry)


def resolve_preset(name: str, image: ImageSettings, channels: int) -> ResolvedPreset:
    """Return a preset by name, for a model.

    Args:
        name: one of ``PRESET_NAMES``.
        image: the model's own values: resolution always, intensity for ``model``, geometry unless the preset sets it.
        channels: of the model's image tokenizer.

    Raises:
        SettingsError: if the name, or the model's own intensity, is unknown.
    """
    intensity = image.intensity if name == "model" else name
    geometry = "crop" if name.startswith("official") else image.geometry
    for known in INTENSITIES:
        if intensity == known:
            return ResolvedPreset(
                intensity=known, geometry=geometry, resolution_px=image.resolution_px, channels=channels
            )
    near = difflib.get_close_matches(intensity, PRESET_NAMES, n=1)
    raise SettingsError(
        f"unknown image preset {intensity!r}",
        where="image.intensity" if name == "model" else "input.preset",
        expected=", ".join(PRESET_NAMES),
        hint=f"did you mean {near[0]!r}?" if near else None,
    )
