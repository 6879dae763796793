"""One record in, one record out: streams, jobs of stdin, the loop, and where outputs go."""
