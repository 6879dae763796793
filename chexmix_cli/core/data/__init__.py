"""Inputs: DICOM, images, studies, manifests. Numpy arrays and plain values; no torch, no model."""
