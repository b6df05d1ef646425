"""Programs that could be used instead of callcast, each doing the same job; `README.md` lists what each lacks."""
