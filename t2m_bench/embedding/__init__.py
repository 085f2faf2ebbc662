"""From cases and sentences to what the frozen encoders make of them, stored."""
