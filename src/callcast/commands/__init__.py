"""One small module per command that is more than a line."""
