"""The heart: what a call is, how it changes, how that is told. No I/O, no clock, no vendor."""
