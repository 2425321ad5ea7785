"""Workflows written as one async function: `workflow` and `step`. What it has done is not repeated."""
