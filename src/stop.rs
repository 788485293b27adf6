//! Being asked to stop: a flag of the process. Work that may take long looks at it from time to time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static FLAG: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The flag, which a signal sets.
pub fn flag() -> &'static Arc<AtomicBool> {
    &FLAG
}

/// # Errors
/// Once the process was asked to stop.
pub fn check() -> std::io::Result<()> {
    match FLAG.load(Ordering::Relaxed) {
        // Not `ErrorKind::Interrupted`, after which everybody tries again.
        true => Err(std::io::Error::other("interrupted")),
        false => Ok(()),
    }
}
