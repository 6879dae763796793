"""``evaluate report``: predictions beside references."""
