"""Reader threads, batches, device, writer threads."""
