"""Mutation testing: one line of a check is changed, and some test must fail."""
