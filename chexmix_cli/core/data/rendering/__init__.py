"""From stored levels to 8-bit grey, and what a film shows: for DICOM files and for pictures alike."""
