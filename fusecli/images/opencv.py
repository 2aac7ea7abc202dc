"""The one place that imports OpenCV, so that a missing system library is explained once."""

import os

from fusecli.errors import FusecliError
from fusecli.machine import too_large_to_load

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # a failure is reported once, with the file's name, by us

try:
    import cv2
except ImportError as error:  # opencv-python links libGL and glib, which slim images lack
    if too_large_to_load(error):
        raise
    raise FusecliError(
        f"OpenCV cannot be imported ({error}). On Debian and Ubuntu: apt-get install libgl1 libglib2.0-0. "
        "Or use the wheel without GUI: pip uninstall opencv-python && pip install opencv-python-headless."
    ) from error

__all__ = ["cv2"]
