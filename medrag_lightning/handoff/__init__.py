"""What a run hands on: a report to read, a bundle to deploy."""
