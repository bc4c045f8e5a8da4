"""Torture of whole runs, by `python -m tools.torture`: kills, full disks, hostile files, odd places, and the like.

Every part answers to a row of the fault table in docs/reliability.md. A part makes trials, drawn from a seed, until it
has made enough of them or its time is over; each is a real command in a real folder, or what reads one of its files.
"""
