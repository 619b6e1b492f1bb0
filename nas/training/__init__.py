"""Training: recipes, augmentation, and the loop."""
