"""One file for each kind of data set: its tables to entries."""
