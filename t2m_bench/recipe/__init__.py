"""What decides a result, as data without torch."""
