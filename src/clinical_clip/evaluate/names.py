"""Names of the floors in every report."""

__all__ = ["CHANCE", "PIXELS", "RANDOM"]

CHANCE = "chance (exact)"
RANDOM = "random ranking"
PIXELS = "32x32 pixels"
