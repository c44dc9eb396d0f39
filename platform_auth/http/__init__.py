"""The HTTP edge: what every endpoint shares, how bodies are read, how tokens travel, and the base of the built-in
pages.
"""
