"""One run: what is queued is routed, called, merged and committed, superstep after superstep."""
