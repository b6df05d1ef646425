"""Secrets and phone numbers do not leak, and resources are bounded."""
