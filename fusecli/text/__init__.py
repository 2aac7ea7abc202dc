"""Image pair to degradation description, and description to vector."""
