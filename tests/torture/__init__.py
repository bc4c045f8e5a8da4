"""Torture of whole runs: kills, signals, full disks, damage, several processes; by `python -m tests.torture`.

Every part answers to a row of the fault table in docs/reliability.md. A part makes trials, drawn from a seed, until it
has made enough of them or its time is over; each is a real command in a real folder.
"""
