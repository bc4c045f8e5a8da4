"""Commands for developers: generated pages, figures, the torture of runs, the structure of the code."""
