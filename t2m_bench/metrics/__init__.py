"""Numbers of one predicted mask against one reference mask."""
