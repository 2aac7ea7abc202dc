"""Networks. They see tensors only: no file formats, no paths but those of checkpoints."""
