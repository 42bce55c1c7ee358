"""Features of one-minute bars, book snapshots and funding, of any number of instruments at once."""
