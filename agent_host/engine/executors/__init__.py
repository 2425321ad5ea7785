"""Executors: their handlers, what of them is state, and how a clone is made for each conversation."""
