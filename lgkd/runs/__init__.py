"""Run folders: their files, identity, statistics, plots and comparison."""
