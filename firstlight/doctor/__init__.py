"""What is wrong, why, and what mends it: pure functions from evidence to findings. Nothing is installed here."""
