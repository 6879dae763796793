"""Random words from a key and a counter: the same on every device and for every block size."""
