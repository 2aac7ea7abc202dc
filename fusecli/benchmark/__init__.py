"""Data sets, methods, scores and reports."""
