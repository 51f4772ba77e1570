"""The fast encoders: numba kernels that search sixteen blocks side by side."""
