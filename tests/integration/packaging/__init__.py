"""Wheel and sdist, what they hold, what they want, and an outbox that another version wrote."""
