"""Other packages' interfaces, run by this one."""
