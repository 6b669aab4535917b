"""For auditors: what files and logs say, and whether it holds."""
