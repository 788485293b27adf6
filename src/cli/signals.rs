//! Ctrl-C and SIGTERM: the first one asks to stop, the second one ends the process at once. SIGUSR1, from a queue that will
//! run the command again: to stop now, and go on later.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Once};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::error::{Error, Kind, Result};
use crate::stop;

static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
/// Has somebody asked to stop for good?
static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The exit code of who is to be started again, EX_TEMPFAIL of `sysexits.h`.
const LATER: u8 = 75;

/// The exit code that goes with the signal that was received, if any.
pub fn received() -> Option<u8> {
    match SIGNAL.load(Ordering::Relaxed) as i32 {
        0 => None,
        SIGUSR1 => Some(LATER),
        signal => Some(128 + signal as u8),
    }
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
    let all = [SIGINT, SIGTERM, SIGUSR1];
    ONCE.call_once(|| {
        outcome = all.into_iter().try_for_each(register);
        // One that came in between.
        if received().is_some() {
            stop::flag().store(true, Ordering::Relaxed);
        }
    });
    outcome.map_err(|e| Error::new(Kind::Io, format!("cannot handle signals: {e}")))
}

fn register(signal: i32) -> std::io::Result<()> {
    // This comes first: from here on the signal does not end the process any more, and must not be lost.
    flag::register_usize(signal, SIGNAL.clone(), signal as usize)?;
    if signal != SIGUSR1 {
        // Order matters: the second signal finds the flag set by the first.
        flag::register_conditional_shutdown(signal, 128 + signal, ASKED.clone())?;
        flag::register(signal, ASKED.clone())?;
    }
    flag::register(signal, stop::flag().clone())?;
    Ok(())
}
