"""The student alone, in formats that need no lgkd: written, compared with the student, described."""
