"""Image towers, text towers and the dual encoder that joins them. Needs the ``train`` extra (torch)."""
