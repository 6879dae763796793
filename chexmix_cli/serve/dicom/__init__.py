"""A DICOM node: radiographs in by C-STORE, a queue on disk, reports, structured reports out."""
