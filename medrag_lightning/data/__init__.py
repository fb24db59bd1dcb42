"""Data sets to records, the synthetic mini-hospital, sampling, and the data module."""
