//! Downloads: from one mirror after the other, resumed where they were cut, checked before they count.

use super::packed::{self, open_plain};
use super::raw::{self, Archive, RawFile, Set};
use super::shard::sync_folder;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::stop;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use ureq::http::{HeaderValue, Response, StatusCode, header};
use ureq::{Agent, Body, Timeout};

/// No file that we download is larger; a server that sends more is cut off.
const MAX_BYTES: u64 = 1 << 32;

/// Bytes that a server sends us in the time of [`Patience::read`], or it is given up: so no file takes forever.
const LEAST: u64 = 1 << 14;

#[derive(Clone, Debug)]
pub struct Options {
    /// Tried before a data set's own mirrors: folders that hold its remote files.
    pub mirrors: Vec<String>,
    /// No progress bar (there is none either where stderr is no terminal).
    pub quiet: bool,
    pub patience: Patience,
}

/// How long a server may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a name to be resolved, and for a connection to be made.
    pub connect: Duration,
    /// For the next bytes, and for each `LEAST` of them.
    pub read: Duration,
    /// Attempts per mirror; every one goes on where the last was cut.
    pub attempts: u32,
    /// Pause before the second attempt, doubled for each one after it.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(3),
            read: Duration::from_secs(20),
            attempts: 4,
            pause: Duration::from_millis(500),
        }
    }
}

impl Options {
    pub fn new(mirrors: Vec<String>, quiet: bool) -> Options {
        Options {
            mirrors,
            quiet,
            patience: Patience::default(),
        }
    }
}

/// What went wrong in one attempt, by what there is to do about it.
enum Trouble {
    /// Nobody answers, or not with the file: on to the next mirror.
    Mirror(String),
    /// The content is wrong: likewise, from the first byte.
    Content(String),
    /// Cut or stalled: try again.
    Passing(String),
    /// The trouble is on our side.
    Ours(Error),
}

/// How often to look whether the process was asked to stop.
const LOOK: Duration = Duration::from_millis(100);

/// What `work` sends, from a thread of its own: the network may keep it waiting for long, but not us.
fn apart<T: Send + 'static>(
    work: impl FnOnce(SyncSender<T>) + Send + 'static,
) -> std::result::Result<Receiver<T>, Trouble> {
    let (sender, receiver) = sync_channel(1);
    let started = thread::Builder::new().spawn(move || work(sender));
    match started {
        Ok(_) => Ok(receiver),
        Err(e) => {
            let text = format!("cannot start a thread to download with: {e}");
            Err(Trouble::Ours(Error::new(Kind::Io, text)))
        }
    }
}

/// The next thing that was sent, none after the last one.
fn next<T>(sent: &Receiver<T>) -> std::result::Result<Option<T>, Trouble> {
    loop {
        go_on()?;
        match sent.recv_timeout(LOOK) {
            Ok(thing) => return Ok(Some(thing)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn pause(time: Duration) -> std::result::Result<(), Trouble> {
    let begin = Instant::now();
    while let Some(left) = time.checked_sub(begin.elapsed()) {
        go_on()?;
        thread::sleep(left.min(LOOK));
    }
    Ok(())
}

fn go_on() -> std::result::Result<(), Trouble> {
    let asked = |e: std::io::Error| Trouble::Ours(Error::new(Kind::Io, e.to_string()));
    stop::check().map_err(asked)
}

/// Downloads the raw files that are not there; returns their names. Fails within seconds where there is no
/// network, and says then which files to put where.
pub fn missing(set: &Set, options: &Options) -> Result<Vec<&'static str>> {
    let wanted = set.missing()?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mirrors: Vec<String> = options
        .mirrors
        .iter()
        .cloned()
        .chain(set.files.mirrors.iter().map(|m| (*m).to_owned()))
        .collect();
    let fetched = match set.files.archives {
        [] => wanted
            .iter()
            .map(|file| one(set, file, &mirrors, options))
            .collect(),
        archives => from_archives(set, archives, &mirrors, options),
    };
    fetched.map_err(|e: Error| {
        let missing = set.missing().unwrap_or(wanted);
        Error::new(e.kind, format!("{e}\n{}", set.remedy(&missing)))
    })
}

fn one(set: &Set, file: &RawFile, mirrors: &[String], options: &Options) -> Result<&'static str> {
    let Some(remote) = &file.remote else {
        let text = format!("the files of {} cannot be downloaded", set.name);
        return Err(Error::new(Kind::Io, text));
    };
    let judge = |path: &Path| -> Result<std::result::Result<(), String>> {
        let verdict = has_sum(path, remote.md5)?;
        if verdict.is_ok() {
            return Ok(verdict);
        }
        // Packed again by another program, but with the right content?
        let content = packed::open(path, set.files.limit);
        let content = content.and_then(|content| raw::md5_of(content, path));
        match content.map(|md5| files::hex(&md5)) {
            Ok(md5) if file.md5.contains(&md5.as_str()) => Ok(Ok(())),
            _ => Ok(verdict),
        }
    };
    let target = set.dir.join(remote.name);
    download(remote.file, mirrors, &target, &judge, options)?;
    Ok(remote.name)
}

/// Whether the file at `path` has this MD5, or which one it has.
fn has_sum(path: &Path, md5: &str) -> Result<std::result::Result<(), String>> {
    let found = files::hex(&raw::md5_of(open_plain(path)?, path)?);
    Ok(match found == md5 {
        true => Ok(()),
        false => Err(format!("has md5 {found}, not {md5}")),
    })
}

/// Unpacks an archive that lies in the data folder, or else downloads one for it.
fn from_archives(
    set: &Set,
    archives: &[Archive],
    mirrors: &[String],
    options: &Options,
) -> Result<Vec<&'static str>> {
    let path = |archive: &Archive| set.dir.join(archive.file);
    for archive in archives {
        let path = path(archive);
        if raw::is_there(&path)? {
            return match has_sum(&path, archive.md5)? {
                Ok(()) => set.unpack(&path),
                Err(why) => Err(raw::damaged(&path, format_args!("it {why}"))),
            };
        }
    }
    let mut failure = None;
    for archive in archives {
        let path = path(archive);
        let judge = |path: &Path| has_sum(path, archive.md5);
        match download(archive.file, mirrors, &path, &judge, options) {
            Ok(()) => {
                let names = set.unpack(&path)?;
                fs::remove_file(&path).map_err(|e| Error::io("delete", &path, &e))?;
                return Ok(names);
            }
            Err(e) => {
                // What was cut is better resumed than begun in another format.
                let begun = Partial::path(&path).is_file();
                let e = failure.get_or_insert(e);
                if begun || !matches!(e.kind, Kind::Io | Kind::Corrupt) {
                    break;
                }
            }
        }
    }
    Err(failure.expect("a set has archives"))
}

/// Says of a downloaded file whether it is the right one, or what is wrong with it.
pub type Judge<'a> = dyn Fn(&Path) -> Result<std::result::Result<(), String>> + 'a;

/// Downloads `MIRROR/file` to `target`, which appears in whole or not at all. What has come so far is kept
/// in `target.part`, also between two calls.
pub fn download(
    file: &str,
    mirrors: &[String],
    target: &Path,
    judge: &Judge,
    options: &Options,
) -> Result<()> {
    let mut partial = Partial::open(target)?;
    if raw::is_there(target)? {
        return partial.discard();
    }
    let mut causes = String::new();
    let mut kind = Kind::Io;
    for mirror in mirrors {
        let url = format!("{}/{file}", mirror.trim_end_matches('/'));
        match from_mirror(&url, &mut partial, judge, options) {
            Ok(()) => return partial.into_file(target),
            Err(Trouble::Ours(e)) => {
                partial.discard_if_empty()?;
                return Err(e);
            }
            Err(Trouble::Mirror(cause) | Trouble::Passing(cause)) => {
                causes += &format!("\n  {url}: {cause}");
            }
            Err(Trouble::Content(cause)) => {
                kind = Kind::Corrupt;
                causes += &format!("\n  {url}: the file {cause}");
                partial.restart()?;
            }
        }
    }
    if mirrors.is_empty() {
        causes += " no mirror is known";
    }
    partial.discard_if_empty()?;
    Err(Error::new(kind, format!("cannot download {file}:{causes}")))
}

fn from_mirror(
    url: &str,
    partial: &mut Partial,
    judge: &Judge,
    options: &Options,
) -> std::result::Result<(), Trouble> {
    let agent = agent(url, &options.patience)?;
    let mut wait = options.patience.pause;
    for attempt in 1.. {
        let result = transfer(&agent, url, partial, options);
        match result {
            Ok(()) => break,
            Err(Trouble::Passing(_)) if attempt < options.patience.attempts => {
                pause(wait)?;
                wait *= 2;
            }
            Err(trouble) => return Err(trouble),
        }
    }
    partial.sync().map_err(Trouble::Ours)?;
    match judge(&partial.path) {
        Ok(verdict) => verdict.map_err(Trouble::Content),
        Err(e) => Err(Trouble::Ours(e)),
    }
}

fn agent(url: &str, patience: &Patience) -> std::result::Result<Agent, Trouble> {
    let https = url.starts_with("https://");
    if !https && !url.starts_with("http://") {
        let text = "a mirror's address starts with https:// or http://";
        return Err(Trouble::Mirror(text.into()));
    }
    let config = Agent::config_builder()
        // Holds for redirects, too: what starts encrypted stays so.
        .https_only(https)
        .http_status_as_error(false)
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_per_read(Some(patience.read))
        .timeout_recv_response(Some(patience.read))
        .timeout_per_write(Some(patience.read))
        // The bytes of the file, not another packing of them.
        .accept_encoding("identity")
        .user_agent(concat!("stepback-native/", env!("CARGO_PKG_VERSION")));
    Ok(config.build().into())
}

/// One request: asks for what is missing of the file and appends it.
fn transfer(
    agent: &Agent,
    url: &str,
    partial: &mut Partial,
    options: &Options,
) -> std::result::Result<(), Trouble> {
    let mut request = agent.get(url);
    if partial.length > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", partial.length));
        if let Some(version) = &partial.version {
            request = request.header(header::IF_RANGE, version);
        }
    }
    let response = apart(move |to| drop(to.send(request.call())))?;
    let response = next(&response)?.expect("an answer or an error");
    let response = response.map_err(connection_trouble)?;
    let status = response.status();
    match status {
        StatusCode::OK => partial.restart().map_err(Trouble::Ours)?,
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(partial.length) => {}
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            partial.restart().map_err(Trouble::Ours)?;
            let text = format!("the server answered {status}, but not with the range asked for");
            return Err(Trouble::Passing(text));
        }
        _ => {
            let text = format!("the server answered {status}");
            let later = status.is_server_error()
                || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
            return Err(match later {
                true => Trouble::Passing(text),
                false => Trouble::Mirror(text),
            });
        }
    }
    let version = version_of(&response);
    partial.note_version(version).map_err(Trouble::Ours)?;
    let expected = response.body().content_length();
    receive(response.into_body(), expected, partial, options)
}

fn connection_trouble(e: ureq::Error) -> Trouble {
    use ureq::Error::{
        BadUri, ConnectProxyFailed, ConnectionFailed, HostNotFound, InvalidProxyUrl,
        RequireHttpsOnly, Rustls, Tls, TooManyRedirects,
    };
    let text = e.to_string();
    match e {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | HostNotFound
        | ConnectionFailed
        | ConnectProxyFailed(_)
        | InvalidProxyUrl
        | BadUri(_)
        | TooManyRedirects
        | Tls(_)
        | Rustls(_) => Trouble::Mirror(text),
        RequireHttpsOnly(url) => Trouble::Mirror(format!(
            "the server redirected to {url}, which is not encrypted"
        )),
        // Nobody listens there, or no way leads there.
        ureq::Error::Io(e) if !cut(e.kind()) => Trouble::Mirror(text),
        _ => Trouble::Passing(text),
    }
}

/// Whether a connection was there and broke.
fn cut(kind: ErrorKind) -> bool {
    [
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::BrokenPipe,
        ErrorKind::UnexpectedEof,
        ErrorKind::TimedOut,
        ErrorKind::WouldBlock,
    ]
    .contains(&kind)
}

/// The first byte of a partial answer.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?;
    let (start, _) = range
        .to_str()
        .ok()?
        .strip_prefix("bytes ")?
        .split_once('-')?;
    start.parse().ok()
}

/// What names this version of the file, fit for If-Range: a strong entity tag or a date.
fn version_of(response: &Response<Body>) -> Option<String> {
    let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
    let tag = text(header::ETAG).filter(|tag| tag.starts_with('"'));
    tag.or(text(header::LAST_MODIFIED)).map(str::to_owned)
}

fn receive(
    body: Body,
    expected: Option<u64>,
    partial: &mut Partial,
    options: &Options,
) -> std::result::Result<(), Trouble> {
    let total = expected.map(|n| n.saturating_add(partial.length));
    let bar = progress(&partial.path, total, options.quiet);
    let (mut clock, mut seen) = (Instant::now(), partial.length);
    let pieces = apart(move |to| read_pieces(body, &to))?;
    while let Some(piece) = next(&pieces)? {
        let piece = piece.map_err(|e| {
            let text = format!("the download was cut after {} bytes: {e}", partial.length);
            Trouble::Passing(text)
        })?;
        partial.append(&piece).map_err(Trouble::Ours)?;
        bar.set_position(partial.length);
        if partial.length > MAX_BYTES {
            return Err(Trouble::Content("has no end".into()));
        }
        if partial.length - seen >= LEAST {
            (clock, seen) = (Instant::now(), partial.length);
        } else if clock.elapsed() > options.patience.read {
            let text = format!(
                "the server sends less than {LEAST} bytes in {:?}",
                options.patience.read
            );
            return Err(Trouble::Mirror(text));
        }
    }
    bar.finish_and_clear();
    match total {
        Some(total) if total != partial.length => Err(Trouble::Passing(format!(
            "the download was cut after {} of {total} bytes",
            partial.length
        ))),
        _ => Ok(()),
    }
}

/// Sends what is read until there is no more, or it fails, or nobody wants it.
fn read_pieces(body: Body, to: &SyncSender<std::io::Result<Vec<u8>>>) {
    let mut reader = body.into_reader();
    loop {
        let mut piece = vec![0; 1 << 16];
        let read = match reader.read(&mut piece) {
            Ok(0) => return,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => read,
        };
        let failed = read.is_err();
        let read = read.map(|n| {
            piece.truncate(n);
            piece
        });
        if to.send(read).is_err() || failed {
            return;
        }
    }
}

fn progress(path: &Path, total: Option<u64>, quiet: bool) -> ProgressBar {
    let target = match quiet {
        true => ProgressDrawTarget::hidden(),
        // Hides itself where stderr is no terminal.
        false => ProgressDrawTarget::stderr(),
    };
    let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("a valid template");
    let name = path.file_stem().unwrap_or_default().display().to_string();
    ProgressBar::with_draw_target(total, target)
        .with_style(style.progress_chars("=> "))
        .with_message(name)
}

/// What has come of a file so far. Held under a lock, so that two processes do not write into one another.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    /// The server's name for the version that the bytes are of, kept beside them.
    version: Option<String>,
    version_path: PathBuf,
    /// Folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
}

impl Partial {
    /// Where the beginning of `target` lies.
    fn path(target: &Path) -> PathBuf {
        with_suffix(target, ".part")
    }

    fn open(target: &Path) -> Result<Partial> {
        let path = Partial::path(target);
        let version_path = with_suffix(&path, ".version");
        let folder = target.parent().expect("a raw file lies in a folder");
        let cannot = |e: std::io::Error| Error::cannot_write(&path, &e);
        let missing = folder.ancestors().take_while(|folder| !folder.exists());
        let made = missing.map(Path::to_owned).collect();
        fs::create_dir_all(folder).map_err(|e| Error::cannot_write(folder, &e))?;
        let mut file = files::open_own(&path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let path = path.display();
                let text = format!("another process is downloading {path}; wait for it to finish");
                return Err(Error::new(Kind::Locked, text));
            }
            Err(TryLockError::Error(e)) => return Err(cannot(e)),
        }
        let length = file.seek(SeekFrom::End(0));
        let length = length.map_err(|e| Error::io("read", &path, &e))?;
        let note = files::read_to_string(&version_path);
        let is_none = note.as_ref().is_err_and(files::absent);
        let mut partial = Partial {
            length,
            version: note.ok().filter(|note| HeaderValue::from_str(note).is_ok()),
            file,
            path,
            version_path,
            made,
        };
        if partial.version.is_none() && !is_none {
            // A note that cannot be sent to a server is not what we have written: what else is not?
            partial.restart()?;
        }
        Ok(partial)
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io("write", &self.path, &e)
    }

    fn restart(&mut self) -> Result<()> {
        self.length = 0;
        let cut = self.file.set_len(0).and_then(|()| self.file.rewind());
        cut.map_err(|e| self.failed(e))?;
        self.note_version(None)
    }

    fn note_version(&mut self, version: Option<String>) -> Result<()> {
        let path = &self.version_path;
        let noted = match &version {
            Some(version) => files::open_own(path).and_then(|mut file| {
                file.set_len(0)?;
                file.write_all(version.as_bytes())
            }),
            None => match fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
        };
        noted.map_err(|e| Error::io("write", path, &e))?;
        self.version = version;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| self.failed(e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.failed(e))
    }

    fn into_file(mut self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).map_err(|e| self.failed(e))?;
        self.note_version(None)?;
        sync_folder(target)
    }

    /// Nothing stays of a download that has not begun.
    fn discard_if_empty(self) -> Result<()> {
        match self.length {
            0 => self.discard(),
            _ => Ok(()),
        }
    }

    fn discard(mut self) -> Result<()> {
        self.note_version(None)?;
        match fs::remove_file(&self.path) {
            // Another process, which was done before us, has given it its final name.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(self.failed(e)),
            _ => {}
        }
        // They stay where something else has come into them.
        self.made.iter().for_each(|folder| {
            let _ = fs::remove_dir(folder);
        });
        Ok(())
    }
}

impl Drop for Partial {
    /// A process that is starting another has its open files twice for a moment, and with them the lock.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::Partial;

    #[test]
    fn a_file_that_is_open_twice_is_unlocked() {
        let dir = tempfile::TempDir::new().unwrap();
        let target = dir.path().join("file");
        let partial = Partial::open(&target).unwrap();
        let _child = partial.file.try_clone().unwrap();
        assert!(Partial::open(&target).is_err());
        drop(partial);
        assert!(Partial::open(&target).is_ok());
    }
}
