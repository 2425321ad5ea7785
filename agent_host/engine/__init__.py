"""The workflow engine: executors and edges, supersteps, checkpoints. No HTTP, no database."""
