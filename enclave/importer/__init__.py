"""Makes a model that a guest can run from a GGUF file: a program of its own, started by the host's
command, that is neither in the guest nor in the host's servers (ADR 14)."""
