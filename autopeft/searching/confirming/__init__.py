"""The front of a search trained again with other seeds, and compared with controls."""
