"""The demo that comes with the pack: a small model, its text encoder and scorers, and how they were made."""
