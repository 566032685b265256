"""Files: written whole or not at all, checkpoints with a checksum, locks, arrays, pictures."""
