"""Response surfaces around one test image."""
