"""Generation: what a model is asked, what it writes, and how that compares with what was to be written."""
