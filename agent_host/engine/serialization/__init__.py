"""Values to bytes and back, for the types that a graph declares and no others."""
