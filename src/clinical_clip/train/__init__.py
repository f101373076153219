"""From pairs of images and captions to a trained dual encoder: recipes, loop, checkpoints, card."""
