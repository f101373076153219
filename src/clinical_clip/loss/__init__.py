"""Contrastive losses as pure functions, and what they need across ranks and in chunks."""
