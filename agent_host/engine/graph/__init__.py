"""The graph of a workflow: executors, edges, what is checked when it is built, and its form as data."""
