"""Fuse two registered images of one scene into one that keeps what matters of both."""

__version__ = "0.1.0"
