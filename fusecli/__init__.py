"""Fuse two registered images of one scene into one that keeps what matters of both."""

import os

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime, once it is imported, would report to Microsoft
