"""Wheel and sdist, their contents and requirements, and an outbox that another version wrote."""
