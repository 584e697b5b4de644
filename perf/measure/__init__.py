"""Points: what to time, on what, against whom, and how."""
