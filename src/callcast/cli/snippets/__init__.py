"""Verification code for receivers of webhooks, as `callcast listen --code` prints it."""
