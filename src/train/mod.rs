//! Training: one run, and a sweep of runs.
