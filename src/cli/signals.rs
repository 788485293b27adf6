//! Ctrl-C and SIGTERM: the first one asks to stop, the second one ends the process at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Once};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Kind, Result};
use crate::stop;

static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// The signal that was received, if any.
pub fn received() -> Option<u8> {
    u8::try_from(SIGNAL.load(Ordering::Relaxed))
        .ok()
        .filter(|signal| *signal != 0)
}

/// A write beyond `ulimit -f` ends the process by default; with a handler, it fails like one on a full disk.
pub fn survive_file_size_limits() {
    // Where it cannot be installed the default stays.
    let _ = flag::register(libc::SIGXFSZ, Arc::default());
}

/// Starts to listen; further calls do nothing.
pub fn listen() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| outcome = [SIGINT, SIGTERM].into_iter().try_for_each(register));
    outcome.map_err(|e| Error::new(Kind::Io, format!("cannot handle signals: {e}")))
}

fn register(signal: i32) -> std::io::Result<()> {
    // Order matters: the second signal finds the flag set by the first.
    flag::register_conditional_shutdown(signal, 128 + signal, stop::flag().clone())?;
    flag::register(signal, stop::flag().clone())?;
    flag::register_usize(signal, SIGNAL.clone(), signal as usize)?;
    Ok(())
}
