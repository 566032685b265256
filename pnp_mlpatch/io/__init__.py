"""Files that are whole or not there: atomic writing, checkpoints with a checksum, locks."""
