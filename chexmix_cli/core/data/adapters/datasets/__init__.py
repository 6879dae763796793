"""One file a kind of data set: its tables to entries."""
