"""Augment whole batches on the device, with draws that are keyed by sample."""
