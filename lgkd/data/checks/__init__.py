"""Check a data set before training: copies, remarks, and the report of `lgkd check`."""
