"""A trained adapter on new images."""
