"""Fusion metrics as pure functions, one file per family."""
