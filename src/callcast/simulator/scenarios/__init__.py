"""What happens behind the fake platform: the recorded seed, an office, a busy house, silence."""
