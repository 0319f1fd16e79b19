"""Bytes in: resumable downloads from many sources, verified; nothing unverified gets a final name."""
