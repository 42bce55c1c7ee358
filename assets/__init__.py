"""Dagster only: one file per stage, and the nouns around them."""
