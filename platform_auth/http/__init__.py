"""The HTTP edge: what every endpoint shares, how bodies are read, how tokens travel, the built-in pages' base."""
