"""Architecture only: no loading, no sampling, no training code."""
