"""Coverage-guided fuzzing, one target per parser: `make fuzz`."""
