"""Data sets drawn here, whose effect of the text is known."""
