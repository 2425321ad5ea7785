"""Where checkpoints are kept when the engine is used alone: the storage that users know, over any commit log."""
