"""Export the student in formats that need no lgkd, compare the files with it, and describe it."""
