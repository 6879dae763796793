"""A model behind a port, one folder a protocol: requests in, what the library makes of them out."""
