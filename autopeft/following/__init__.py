"""Recipes followed: what a search has exported, trained again, with other seeds or on another task."""
