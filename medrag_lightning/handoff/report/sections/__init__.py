"""The parts of the report, one a file: each makes a `Section` of the run's material, or says why it is absent."""
