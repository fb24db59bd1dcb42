"""What is wrong with a data set before anything is trained on it: faults, leaks. Needs neither torch nor lightning."""
