"""What every result of a model says of itself, in records, pictures, pages and DICOM: written here and nowhere else."""

from __future__ import annotations

UNVERIFIED = "preliminary, unverified; not for clinical use"
#: Of reports, and pictures of them.
GENERATED = f"AI-generated, {UNVERIFIED}"
#: Of films with a hidden part filled in.
GENERATED_IN_PART = f"AI-generated in part, {UNVERIFIED}"
