"""Members in Ray actors, and ensembles as an application of Ray Serve."""
