"""The account: the time of a launch predicted from its machine code, for kernels of ours and of a rival alike."""
