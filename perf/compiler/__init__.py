"""What the compiler says of the kernels; no GPU is needed."""
