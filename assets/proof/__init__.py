"""What the checks can catch, measured: each proof puts the real house through something and counts."""
