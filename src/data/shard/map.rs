//! Read-only memory maps that survive a file that is cut short while it is being read.
//!
//! Reading a mapped page that lies behind the end of its file raises SIGBUS, which ends the process by
//! default. Here a handler puts zero pages in place of what is gone and marks the map as damaged; a caller that
//! reads the map asks [`MappedFile::damaged`] before trusting what was computed from it.

use crate::error::{Error, Result};
use crate::files;
use memmap2::Mmap;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Maps of one process at a time: the handler can only look into a table that never moves.
const MAX_MAPS: usize = 256;

/// What the signal handler knows of one map: the addresses `start..end`.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    damaged: AtomicBool,
}

/// Values of `start` that are no address.
const FREE: usize = 0;
const RESERVED: usize = 1;

static SLOTS: [Slot; MAX_MAPS] = [const {
    Slot {
        start: AtomicUsize::new(FREE),
        end: AtomicUsize::new(0),
        damaged: AtomicBool::new(false),
    }
}; MAX_MAPS];

static HANDLER: OnceLock<Handler> = OnceLock::new();

struct Handler {
    page: usize,
    /// What answered SIGBUS before us (Rust's own handler, which reports stack overflows).
    previous: libc::sigaction,
}

/// A file mapped read-only, in whole.
pub struct MappedFile {
    map: Mmap,
    file: File,
    slot: &'static Slot,
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<MappedFile> {
        let cannot = |cause: std::io::Error| Error::io("map", path, &cause);
        let file = files::open(path).map_err(|e| Error::io("open", path, &e))?;
        install_handler().map_err(cannot)?;
        // SAFETY: the map is read-only and private to this struct. Should another process shorten the
        // file, the handler keeps reads defined; should one write into it (our own files are written
        // once, under another name, and are read-only from then on), we would read changed bytes,
        // which every reader of the map has to bear without relying on them for memory safety.
        let map = unsafe { Mmap::map(&file) }.map_err(cannot)?;
        let slot = register(&map)
            .ok_or_else(|| cannot(std::io::Error::other("too many mapped files are open")))?;
        Ok(MappedFile { map, file, slot })
    }

    /// Whether the file has changed its length, or pages of it could not be read and were taken for zero.
    pub fn damaged(&self) -> bool {
        // The length tells of a cut inside the last page, which reads as zeros without a signal.
        let length = self.file.metadata().map(|m| m.len());
        self.slot.damaged.load(Ordering::Acquire) || length.ok() != Some(self.map.len() as u64)
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // Before the pages go back: afterwards the addresses may belong to somebody else.
        self.slot.start.store(FREE, Ordering::Release);
    }
}

fn register(map: &[u8]) -> Option<&'static Slot> {
    let slot = SLOTS.iter().find(|slot| {
        let (acquire, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        let exchange = &slot.start;
        exchange
            .compare_exchange(FREE, RESERVED, acquire, relaxed)
            .is_ok()
    })?;
    let start = map.as_ptr() as usize;
    slot.damaged.store(false, Ordering::Relaxed);
    slot.end.store(start + map.len(), Ordering::Release);
    slot.start.store(start, Ordering::Release);
    Some(slot)
}

fn install_handler() -> std::io::Result<()> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = *INSTALLED.get_or_init(|| {
        // SAFETY: plain calls with valid pointers; an all-zero sigaction is a valid one to be filled.
        unsafe {
            let mut previous: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut previous) != 0 {
                return false;
            }
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let _ = HANDLER.set(Handler { page, previous });
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(_, _, _) = on_sigbus;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) == 0
        }
    });
    match installed {
        true => Ok(()),
        false => Err(std::io::Error::other("cannot handle SIGBUS")),
    }
}

/// Runs on the faulting thread at any moment: atomics and system calls only.
extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    let Some(handler) = HANDLER.get() else {
        return;
    };
    // SAFETY: the kernel passes a valid siginfo_t to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    if replace_with_zeros(address, handler.page) {
        return;
    }
    // Not ours: the same fault comes again on return and meets the previous handler.
    // SAFETY: `previous` came from sigaction itself.
    unsafe { libc::sigaction(signal, &handler.previous, std::ptr::null_mut()) };
}

/// Maps zeros from the page of `address` to the end of the map it belongs to, since a file that has
/// lost a page to a cut has lost all that follow. False if the address is in none of our maps.
fn replace_with_zeros(address: usize, page: usize) -> bool {
    for slot in &SLOTS {
        let start = slot.start.load(Ordering::Acquire);
        let end = slot.end.load(Ordering::Acquire);
        // Read again: the slot may have changed hands between the two loads.
        let settled = slot.start.load(Ordering::Acquire) == start;
        if start <= RESERVED || !settled || !(start..end).contains(&address) {
            continue;
        }
        let from = address / page * page;
        let length = end.next_multiple_of(page) - from;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: from..from + length are whole pages of one of our own maps, which is alive because
        // a thread is reading it just now. mmap is a bare system call on the systems we know.
        let zeros = unsafe { libc::mmap(from as *mut _, length, libc::PROT_READ, flags, -1, 0) };
        if zeros == libc::MAP_FAILED {
            return false;
        }
        slot.damaged.store(true, Ordering::Release);
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;

    const PAGE: usize = 65536;

    fn file_of(pages: usize) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; pages * PAGE]).unwrap();
        file
    }

    #[test]
    fn a_file_cut_under_a_map_reads_as_zeros_and_is_damaged() {
        let (cut, whole) = (file_of(8), file_of(2));
        let (a, b) = (
            MappedFile::open(cut.path()).unwrap(),
            MappedFile::open(whole.path()).unwrap(),
        );
        assert!(a.iter().all(|v| *v == 7) && !a.damaged());
        cut.as_file().set_len(3 * PAGE as u64).unwrap();
        let sum: u64 = a.iter().map(|v| u64::from(*v)).sum();
        assert_eq!(sum, 7 * 3 * PAGE as u64);
        assert!(a.damaged());
        // The mark stays when the length comes back.
        cut.as_file().set_len(8 * PAGE as u64).unwrap();
        assert!(a.damaged());
        assert!(b.iter().all(|v| *v == 7) && !b.damaged());
    }

    #[test]
    fn a_cut_inside_the_last_page_is_damage_too() {
        let file = file_of(1);
        let map = MappedFile::open(file.path()).unwrap();
        file.as_file().set_len(PAGE as u64 - 1).unwrap();
        assert!(map.damaged());
    }

    #[test]
    fn slots_are_given_back() {
        let file = file_of(1);
        for _ in 0..3 * MAX_MAPS {
            assert_eq!(MappedFile::open(file.path()).unwrap()[0], 7);
        }
    }

    /// Reads behind the end of a map that is not ours. Run in a process of its own by the test below.
    #[test]
    #[ignore = "dies by design"]
    fn foreign_fault() {
        let (ours, foreign) = (file_of(1), file_of(2));
        let _ours = MappedFile::open(ours.path()).unwrap();
        // SAFETY: the undefined read is the point.
        let map = unsafe { Mmap::map(foreign.as_file()) }.unwrap();
        foreign.as_file().set_len(0).unwrap();
        std::hint::black_box(map[PAGE]);
    }

    #[test]
    fn a_fault_elsewhere_still_ends_the_process() {
        let this = std::env::current_exe().unwrap();
        let status = std::process::Command::new(this)
            .args([
                "--ignored",
                "--exact",
                "data::shard::map::tests::foreign_fault",
            ])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGBUS));
    }
}
