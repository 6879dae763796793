"""Products with weights of 8 or 4 bits on a CPU: their definition in torch, and kernels in C."""
