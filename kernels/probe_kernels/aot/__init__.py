"""What the Triton kernels compile to, without a GPU: ``python -m probe_kernels.aot`` writes docs/kernels.md."""
