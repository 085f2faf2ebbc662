"""What a trained arm is asked, and how well it answers."""
