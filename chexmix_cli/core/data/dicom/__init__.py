"""DICOM files: read, decoded, rendered to 8-bit grey, and judged by their header."""
