"""``evaluate report``: predictions compared with references."""
