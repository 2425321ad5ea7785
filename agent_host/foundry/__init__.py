"""The hosted agent platform's side: who is calling. Knows neither the engine nor the web framework."""
