"""``evaluate classification``: from scored items to numbers, masking curves and cases."""
