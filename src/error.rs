//! The one error type. Its kind decides the exit code, its message is what the user reads.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by the exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1: a device failed while it was at work.
    Device,
    /// 2: the command line or a config is wrong; nothing was done.
    Usage,
    /// 11: another process holds the output.
    Locked,
    /// 65: a file that we read is damaged.
    Corrupt,
    /// 73: the output cannot be created.
    CannotCreate,
    /// 74: reading, writing or the network failed.
    Io,
    /// 141: the reader of our output has gone; no message.
    ClosedPipe,
}

impl Kind {
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Device => 1,
            Kind::Usage => 2,
            Kind::Locked => 11,
            Kind::Corrupt => 65,
            Kind::CannotCreate => 73,
            Kind::Io => 74,
            Kind::ClosedPipe => 141,
        }
    }
}

/// An error says what is wrong, where, and what to do about it.
#[derive(Clone, Debug)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
        }
    }

    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, message)
    }

    /// An I/O error on `path` while doing `what` ("read", "write", ...).
    pub fn io(what: &str, path: &Path, cause: &std::io::Error) -> Error {
        Error::new(
            Kind::Io,
            format!("cannot {what} {}: {cause}", path.display()),
        )
    }

    /// A file or folder at `path` that cannot be made or written. Where the place is good but full, the writing has
    /// failed.
    pub fn cannot_write(path: &Path, cause: &std::io::Error) -> Error {
        let kind = match cause.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Kind::Io,
            _ => Kind::CannotCreate,
        };
        let path = path.display();
        Error::new(kind, format!("cannot write to {path}: {cause}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
