"""DICOM: limits, reading, pixels, frames (PS3.3, PS3.5, PS3.10)."""
