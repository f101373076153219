"""``python -m clinical_clip``: the same as ``clinical-clip``."""

from clinical_clip.cli.main import run

if __name__ == "__main__":
    run()
