"""Products with weights of 8 or 4 bits: the numbers and their definition in torch, kernels in C for a CPU, Triton."""
