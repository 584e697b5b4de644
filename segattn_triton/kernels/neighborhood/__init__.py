"""Every pixel attends to the pixels around it."""
