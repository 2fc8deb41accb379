"""A search while it runs: its clock, its picture, and what may be asked of it from outside."""
