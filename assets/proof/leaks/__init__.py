"""Seeded leaks: small named mutations of the real pipeline, and the checks that must turn red on each."""
