//! Data sets: a table of rows, one file per source, the shard format and the order of batches.
