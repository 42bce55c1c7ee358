"""A made-up A-share market told as vendor tables, with a planted signal or none, and named faults."""
