"""What people would use instead of callcast, each doing the same job; `README.md` says how far each goes."""
