//! Tests of what a machine may lack.

use std::io::Write;

/// Says so where it is seen: the test harness swallows what the print macros write.
pub fn skip(test: &str, missing: &str) {
    let _ = writeln!(std::io::stderr(), "test {test} ... skipped: {missing}");
}
