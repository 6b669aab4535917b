"""What a host does with a model before a guest runs it."""
