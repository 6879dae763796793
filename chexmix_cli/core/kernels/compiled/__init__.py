"""The kernels in C: compiled into one library when chexmix is installed, found and loaded when one is called."""
