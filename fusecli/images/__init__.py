"""Files to frames and back. Knows file formats, geometry, intensity and colour; knows no torch."""
