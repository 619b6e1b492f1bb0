"""Training: loop, recipes, augmentation, checkpoints and early stopping."""
