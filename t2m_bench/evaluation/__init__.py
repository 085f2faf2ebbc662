"""Puts conditions to a trained arm and measures its answers."""
