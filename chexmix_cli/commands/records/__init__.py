"""One record in, one record out: streams, jobs, the loop, worker processes, and where outputs go."""
