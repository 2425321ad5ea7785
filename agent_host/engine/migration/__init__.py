"""States that an older graph has stored: what may go on, and how it is brought up to date."""
