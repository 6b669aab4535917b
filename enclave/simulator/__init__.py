"""Vendors and hardware for machines that have neither, under roots of its own."""
