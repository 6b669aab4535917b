"""Programs of other people's libraries, run unchanged against the embedded chain."""
