//! Models: a table of rows, one file per family.
