"""Secrets and numbers stay where they belong, and nobody can take more than there is."""
