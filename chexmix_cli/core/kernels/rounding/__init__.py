"""Device function shared by kernels: a store that rounds alike in Triton's interpreter and on a GPU."""
