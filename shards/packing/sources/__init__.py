"""Sources of clips, a module each; what they share is in listing.py."""
