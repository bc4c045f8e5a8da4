"""Guide a student by a frozen teacher: taps, features, terms, guides and tasks."""
