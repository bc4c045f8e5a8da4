"""Make the data of golden tests anew."""
