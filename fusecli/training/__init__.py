"""Losses, degradations, data and the one training loop of teacher and students."""
