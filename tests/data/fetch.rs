//! Downloads from servers that misbehave in scripted ways.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use stepback_native::data::fetch::{Options, Patience, download, missing};
use stepback_native::data::raw::{Archive, Files, RawFile, Remote, Set, md5_of};
use stepback_native::data::shard::{Features, Form};
use stepback_native::error::{Kind, Result};
use stepback_native::files::hex;
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);

/// What the server does with one connection after reading the request.
enum Answer {
    /// Sends this and closes.
    Send(Vec<u8>),
    /// Sends this and then nothing for a minute, without closing, unless nobody listens any more.
    Stall(Vec<u8>),
    /// Sends a whole answer's head and then its body byte by byte, slowly, for as long as anybody listens.
    Drip(Vec<u8>),
}

/// Answers one connection after the other as told; connections beyond the script are closed at once.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(script: Vec<Answer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/files", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        thread::spawn(move || {
            let mut script = script.into_iter();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                seen.lock().unwrap().push(read_request(&mut stream));
                match script.next() {
                    Some(Answer::Send(bytes)) => {
                        let _ = stream.write_all(&bytes);
                    }
                    Some(Answer::Stall(bytes)) => {
                        let _ = stream.write_all(&bytes);
                        stream.set_read_timeout(Some(MINUTE)).unwrap();
                        thread::spawn(move || stream.read(&mut [0]));
                    }
                    Some(Answer::Drip(bytes)) => {
                        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n");
                        let (head, body) = bytes.split_at(head.unwrap() + 4);
                        let _ = stream.write_all(head);
                        let mut body = body.iter();
                        while body.next().is_some_and(|b| stream.write_all(&[*b]).is_ok()) {
                            thread::sleep(Duration::from_millis(5));
                        }
                    }
                    None => {}
                }
            }
        });
        Server { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap().to_lowercase()
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// A whole answer that says to be of version `tag`.
fn whole(tag: &str, content: &[u8]) -> Vec<u8> {
    let headers = format!("ETag: \"{tag}\"\r\nContent-Length: {}\r\n", content.len());
    answer("200 OK", &headers, content)
}

/// As [`whole`], but the connection breaks after `sent` bytes of the body.
fn cut(tag: &str, content: &[u8], sent: usize) -> Vec<u8> {
    let all = whole(tag, content);
    all[..all.len() - content.len() + sent].to_vec()
}

fn rest(content: &[u8], from: usize) -> Vec<u8> {
    let n = content.len();
    let headers = format!(
        "ETag: \"v1\"\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{n}\r\n",
        n - from,
        n - 1
    );
    answer("206 Partial Content", &headers, &content[from..])
}

fn send(bytes: Vec<u8>) -> Answer {
    Answer::Send(bytes)
}

/// On a busy machine a good server takes its time.
fn options() -> Options {
    Options {
        mirrors: Vec::new(),
        quiet: true,
        patience: Patience {
            connect: MINUTE,
            read: MINUTE,
            attempts: 3,
            pause: Duration::from_millis(5),
        },
    }
}

/// For servers that keep us waiting.
fn impatient() -> Options {
    let mut options = options();
    options.patience.read = Duration::from_secs(1);
    options
}

fn content() -> Vec<u8> {
    (0..200_000u32)
        .map(|i| (i.wrapping_mul(i) >> 5) as u8)
        .collect()
}

/// Downloads `file` from these servers; the right content is [`content`].
fn get(servers: &[&Server], dir: &TempDir, options: &Options) -> Result<()> {
    let urls: Vec<_> = servers.iter().map(|s| s.url.clone()).collect();
    let judge = |path: &Path| match fs::read(path).unwrap() == content() {
        true => Ok(Ok(())),
        false => Ok(Err("is another".to_owned())),
    };
    let result = download("file", &urls, &dir.path().join("raw/file"), &judge, options);
    if result.is_ok() {
        assert_eq!(fs::read(dir.path().join("raw/file")).unwrap(), content());
        let left = fs::read_dir(dir.path().join("raw")).unwrap().count();
        assert_eq!(left, 1, "nothing else is left");
    } else {
        assert!(!dir.path().join("raw/file").exists());
    }
    result
}

#[test]
fn a_file_comes_in_one_piece() {
    let (dir, server) = (
        TempDir::new().unwrap(),
        Server::new(vec![send(whole("v1", &content()))]),
    );
    get(&[&server], &dir, &options()).unwrap();
    let [request] = &server.requests()[..] else {
        panic!("one request");
    };
    assert!(
        request.starts_with("get /files/file http/1.1\r\n"),
        "{request}"
    );
    assert!(!request.contains("range:") && request.contains("accept-encoding: identity"));
}

#[test]
fn a_cut_download_is_resumed() {
    let script = vec![
        send(cut("v1", &content(), 70_000)),
        send(rest(&content(), 70_000)[..50_000].to_vec()),
    ];
    let (dir, server) = (TempDir::new().unwrap(), Server::new(script));
    let twice = Options {
        patience: Patience {
            attempts: 2,
            ..options().patience
        },
        ..options()
    };
    let e = get(&[&server], &dir, &twice).unwrap_err();
    assert!(e.kind == Kind::Io && e.message.contains("cut after"), "{e}");
    assert!(server.requests()[1].contains("range: bytes=70000-\r\n"));
    assert!(server.requests()[1].contains("if-range: \"v1\"\r\n"));

    // Another process goes on with what is there.
    let have = fs::metadata(dir.path().join("raw/file.part"))
        .unwrap()
        .len();
    assert!(have > 110_000, "{have}");
    let server = Server::new(vec![send(rest(&content(), have as usize))]);
    get(&[&server], &dir, &options()).unwrap();
    assert!(server.requests()[0].contains(&format!("range: bytes={have}-\r\n")));
    assert!(server.requests()[0].contains("if-range: \"v1\"\r\n"));
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let script = vec![
        send(cut("v1", &content(), 70_000)),
        send(whole("v2", &content())),
    ];
    let (dir, server) = (TempDir::new().unwrap(), Server::new(script));
    get(&[&server], &dir, &options()).unwrap();
    assert!(server.requests()[1].contains("range: bytes=70000-"));
}

#[test]
fn a_wrong_range_or_none_starts_over() {
    for second in [
        rest(&content(), 60_000),
        answer("206 Partial Content", "Content-Length: 3\r\n", b"abc"),
        answer("416 Range Not Satisfiable", "Content-Length: 0\r\n", b""),
    ] {
        let first = cut("v1", &content(), 70_000);
        let script = vec![send(first), send(second), send(whole("v1", &content()))];
        let (dir, server) = (TempDir::new().unwrap(), Server::new(script));
        get(&[&server], &dir, &options()).unwrap();
        assert!(!server.requests()[2].contains("range:"));
    }
}

#[test]
fn a_body_without_a_length_that_ends_early_is_found_out() {
    let unsized_body = answer("200 OK", "", &content()[..1000]);
    let script = vec![send(unsized_body)];
    let (dir, bad) = (TempDir::new().unwrap(), Server::new(script));
    let good = Server::new(vec![send(whole("v1", &content()))]);
    get(&[&bad, &good], &dir, &options()).unwrap();
    // Its bytes were thrown away.
    assert!(!good.requests()[0].contains("range:"));
}

#[test]
fn what_is_not_there_is_looked_for_elsewhere() {
    let gone = Server::new(vec![send(answer(
        "404 Not Found",
        "Content-Length: 0\r\n",
        b"",
    ))]);
    let good = Server::new(vec![send(whole("v1", &content()))]);
    let dir = TempDir::new().unwrap();
    get(&[&gone, &good], &dir, &options()).unwrap();
    assert_eq!(gone.requests().len(), 1, "asked once");
}

#[test]
fn a_server_in_trouble_is_asked_again() {
    let busy = || {
        send(answer(
            "503 Service Unavailable",
            "Content-Length: 0\r\n",
            b"",
        ))
    };
    let script = vec![busy(), busy(), send(whole("v1", &content()))];
    let (dir, server) = (TempDir::new().unwrap(), Server::new(script));
    get(&[&server], &dir, &options()).unwrap();
    let server = Server::new(vec![busy(), busy(), busy(), busy()]);
    let dir = TempDir::new().unwrap();
    let e = get(&[&server], &dir, &options()).unwrap_err();
    assert!(e.kind == Kind::Io && e.message.contains("503"), "{e}");
    assert_eq!(server.requests().len(), 3);
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "no empty part and no folder are left");
}

#[test]
fn redirects_are_followed() {
    let target = Server::new(vec![send(whole("v1", &content()))]);
    let headers = format!("Location: {}/else\r\nContent-Length: 0\r\n", target.url);
    let source = Server::new(vec![send(answer("302 Found", &headers, b""))]);
    get(&[&source], &TempDir::new().unwrap(), &options()).unwrap();
    assert!(target.requests()[0].starts_with("get /files/else "));
}

#[test]
fn a_stalled_server_is_given_up() {
    let start = whole("v1", &content())[..30_000].to_vec();
    let script = vec![Answer::Stall(start), Answer::Stall(Vec::new())];
    let (dir, server) = (TempDir::new().unwrap(), Server::new(script));
    let begin = Instant::now();
    let e = get(&[&server], &dir, &impatient()).unwrap_err();
    assert!(begin.elapsed() < MINUTE);
    assert_eq!(e.kind, Kind::Io);
    // The second attempt wanted to go on where the first one stalled.
    assert!(server.requests()[1].contains("range: bytes="));
}

#[test]
fn a_server_that_drips_is_given_up() {
    let dripping = Server::new(vec![Answer::Drip(whole("v1", &content()))]);
    let good = Server::new(vec![send(whole("v1", &content()))]);
    let dir = TempDir::new().unwrap();
    // Its bytes come in time, one by one, but all of them would take a thousand seconds.
    let e = get(&[&dripping], &dir, &impatient()).unwrap_err();
    assert_eq!(e.kind, Kind::Io);
    assert!(e.message.contains("sends less than"), "{e}");
    assert_eq!(dripping.requests().len(), 1, "and is not asked again");
    get(&[&good], &dir, &options()).unwrap();
}

#[test]
fn a_note_that_cannot_be_sent_is_thrown_away_with_its_bytes() {
    let bad: [&[u8]; 3] = [b"\"a\n", b"\xff", b"\"\0\""];
    for note in bad {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("raw")).unwrap();
        fs::write(dir.path().join("raw/file.part"), &content()[..1000]).unwrap();
        fs::write(dir.path().join("raw/file.part.version"), note).unwrap();
        let server = Server::new(vec![send(whole("v1", &content()))]);
        get(&[&server], &dir, &options()).unwrap();
        assert!(!server.requests()[0].contains("range:"));
    }
}

#[test]
fn what_lies_behind_a_link_is_left_alone() {
    for name in ["file.part", "file.part.version"] {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("raw")).unwrap();
        let theirs = dir.path().join("theirs");
        fs::write(&theirs, "text").unwrap();
        std::os::unix::fs::symlink("../theirs", dir.path().join("raw").join(name)).unwrap();
        let server = Server::new(vec![send(whole("v1", &content()))]);
        let got = get(&[&server], &dir, &options());
        assert_eq!(got.is_err(), name == "file.part");
        if let Err(e) = got {
            assert!(e.message.contains("file.part: it is a link"), "{e}");
        }
        assert_eq!(fs::read(&theirs).unwrap(), b"text");
    }
}

#[test]
fn nobody_there_is_found_out_at_once() {
    // The client's end of a connection: its port is taken, and nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let url = format!("http://{}/x", client.local_addr().unwrap());
    let nobody = Server {
        url,
        requests: Arc::default(),
    };
    let ftp = Server {
        url: "ftp://localhost/x".into(),
        requests: Arc::default(),
    };
    let mut patient = options();
    // Nobody is asked again.
    patient.patience.pause = MINUTE;
    let begin = Instant::now();
    let e = get(&[&nobody, &ftp], &TempDir::new().unwrap(), &patient).unwrap_err();
    assert!(begin.elapsed() < MINUTE);
    assert_eq!(e.kind, Kind::Io);
    assert!(
        e.message.contains(&nobody.url) && e.message.contains("https://"),
        "{e}"
    );
}

#[test]
fn two_processes_do_not_write_into_one_another() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("raw")).unwrap();
    let other = fs::File::create(dir.path().join("raw/file.part")).unwrap();
    other.lock().unwrap();
    let server = Server::new(vec![send(whole("v1", &content()))]);
    let e = get(&[&server], &dir, &options()).unwrap_err();
    assert_eq!(e.kind, Kind::Locked);
    // Not by closing it: a process that another test starts has it open, too, for a moment.
    other.unlock().unwrap();
    get(&[&server], &dir, &options()).unwrap();
}

// With the sums of a data set.

const TEXT: &[u8] = b"what the file holds\n";

fn packed(level: u32) -> Vec<u8> {
    let level = flate2::Compression::new(level);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(TEXT).unwrap();
    encoder.finish().unwrap()
}

static FILES: Files = Files {
    raw: &[
        RawFile {
            names: &["a/one", "a/one.gz"],
            md5: &["9272c89359c196b0cec34eaac7772cdb"],
            remote: Some(Remote {
                file: "one.gz",
                name: "a/one.gz",
                md5: "00000000000000000000000000000000",
            }),
        },
        RawFile {
            names: &["a/two"],
            md5: &[],
            remote: None,
        },
    ],
    convert: |_, _, _, _| unreachable!("nothing is converted here"),
    open: |_, _, _| unreachable!("nothing is opened here"),
    form: FORM,
    limit: 1 << 30,
    archives: &[],
    mirrors: &[],
    home: "the moon",
};

const FORM: Form = Form {
    features: Features::Bytes,
    sample: None,
    classes: None,
    places: None,
};

#[test]
fn sums_decide() {
    let sum = |bytes: &[u8]| hex(&md5_of(bytes, Path::new("")).unwrap());
    let remote = FILES.raw[0].remote.as_ref().unwrap();
    assert_eq!([sum(TEXT).as_str()], FILES.raw[0].md5);
    let fetch = |servers: &[&Server], dir: &TempDir| {
        let with_mirrors = Options {
            mirrors: servers.iter().map(|s| s.url.clone()).collect(),
            ..options()
        };
        missing(&Set::new("set", &FILES, dir.path()), &with_mirrors)
    };

    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::write(dir.path().join("a/two"), "").unwrap();
    let wrong = || Server::new(vec![send(whole("v1", b"something else"))]);
    let e = fetch(&[&wrong()], &dir).unwrap_err();
    assert_eq!(e.kind, Kind::Corrupt);
    let path = dir.path().join("a/one").display().to_string();
    for part in [&sum(b"something else"), remote.md5, &path, "the moon"] {
        assert!(e.message.contains(part), "{part:?} is not in {e}");
    }
    assert!(!dir.path().join("a/one.gz").exists());

    // A file packed by another program is right if its content is.
    let good = Server::new(vec![send(whole("v1", &packed(9)))]);
    assert_eq!(fetch(&[&wrong(), &good], &dir).unwrap(), ["a/one.gz"]);
    assert_eq!(fs::read(dir.path().join("a/one.gz")).unwrap(), packed(9));
    assert!(
        fetch(&[], &dir).unwrap().is_empty(),
        "nothing is missing any more"
    );

    // Whatever it is packed to.
    static SHORT: Files = Files { limit: 5, ..FILES };
    fs::remove_file(dir.path().join("a/one.gz")).unwrap();
    let good = Server::new(vec![send(whole("v1", &packed(9)))]);
    let with_mirrors = Options {
        mirrors: vec![good.url.clone()],
        ..options()
    };
    let e = missing(&Set::new("set", &SHORT, dir.path()), &with_mirrors).unwrap_err();
    assert_eq!(e.kind, Kind::Corrupt);
    fs::write(dir.path().join("a/one.gz"), packed(9)).unwrap();

    fs::remove_file(dir.path().join("a/two")).unwrap();
    let e = fetch(&[], &dir).unwrap_err();
    assert!(
        e.kind == Kind::Io && e.message.contains("cannot be downloaded"),
        "{e}"
    );
    assert!(
        e.message.contains("a/two") && !e.message.contains("a/one"),
        "{e}"
    );
}

// Archives.

/// A packed archive of these members.
fn archive(members: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    for (name, kind, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        // Past the builder's own checks, which refuse what an attacker would write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn honest(second: &[u8]) -> Vec<u8> {
    let file = tar::EntryType::Regular;
    archive(&[
        ("set/", tar::EntryType::Directory, b""),
        ("set/readme.html", file, b"not wanted"),
        ("../outside", file, b"not wanted"),
        ("set/one.bin", file, b"first"),
        ("set/two.bin", file, second),
    ])
}

/// A set of two files, to be had in two archives of these contents.
fn set_of_archives<'d>(contents: [&[u8]; 2], dir: &'d TempDir) -> Set<'d> {
    let sum = |bytes: &[u8]| hex(&md5_of(bytes, Path::new("")).unwrap()).leak();
    let file = |names| RawFile {
        names,
        md5: &[],
        remote: None,
    };
    let raw = [
        file(&["set/one.bin", "other/one"]),
        file(&["set/two.bin", "other/two"]),
    ];
    let archive = |file, content| Archive {
        file,
        md5: sum(content),
    };
    let archives = [
        archive("set.tar.gz", contents[0]),
        archive("other.tar.gz", contents[1]),
    ];
    let files = Files {
        raw: Box::leak(Box::new(raw)),
        convert: |_, _, _, _| unreachable!("nothing is converted here"),
        open: |_, _, _| unreachable!("nothing is opened here"),
        form: FORM,
        limit: 1 << 30,
        archives: Box::leak(Box::new(archives)),
        mirrors: &[],
        home: "the moon",
    };
    Set::new("set", Box::leak(Box::new(files)), dir.path())
}

fn from(servers: &[&Server], set: &Set) -> Result<Vec<&'static str>> {
    let with_mirrors = Options {
        mirrors: servers.iter().map(|s| s.url.clone()).collect(),
        ..options()
    };
    missing(set, &with_mirrors)
}

/// All files below a folder, sorted.
fn files_in(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(dir).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn an_archive_is_resumed_and_the_wanted_files_are_taken_out() {
    let second: Vec<u8> = content();
    let packed = honest(&second);
    let dir = TempDir::new().unwrap();
    let set = set_of_archives([&packed, b""], &dir);
    let begun = 2_000;
    let server = Server::new(vec![
        send(cut("v1", &packed, begun)),
        send(rest(&packed, begun)),
    ]);
    let names = from(&[&server], &set).unwrap();
    assert_eq!(names, ["set/one.bin", "set/two.bin"]);
    assert!(server.requests()[0].starts_with("get /files/set.tar.gz "));
    assert!(server.requests()[1].contains(&format!("range: bytes={begun}-")));
    let expected = ["set/one.bin", "set/two.bin", "shards/.lock"];
    assert_eq!(
        files_in(dir.path()),
        expected,
        "no archive, no other member"
    );
    assert_eq!(fs::read(dir.path().join("set/one.bin")).unwrap(), b"first");
    assert_eq!(fs::read(dir.path().join("set/two.bin")).unwrap(), second);
    assert!(!dir.path().parent().unwrap().join("outside").exists());
    assert!(from(&[], &set).unwrap().is_empty());
}

#[test]
fn an_archive_that_is_there_is_not_downloaded_but_checked() {
    let packed = honest(b"second");
    let dir = TempDir::new().unwrap();
    let set = set_of_archives([b"", &packed], &dir);
    fs::write(dir.path().join("other.tar.gz"), b"something else").unwrap();
    let e = from(&[], &set).unwrap_err();
    assert_eq!(e.kind, Kind::Corrupt);
    assert!(
        e.message.contains("other.tar.gz") && e.message.contains("md5"),
        "{e}"
    );
    fs::write(dir.path().join("other.tar.gz"), &packed).unwrap();
    from(&[], &set).unwrap();
    // It is the user's, and stays.
    let expected = ["other.tar.gz", "set/one.bin", "set/two.bin", "shards/.lock"];
    assert_eq!(files_in(dir.path()), expected);
}

#[test]
fn only_what_is_missing_is_unpacked() {
    let packed = honest(b"second");
    let dir = TempDir::new().unwrap();
    let set = set_of_archives([&packed, b""], &dir);
    fs::create_dir(dir.path().join("other")).unwrap();
    fs::write(dir.path().join("other/one"), "mine").unwrap();
    let server = Server::new(vec![send(whole("v1", &packed))]);
    assert_eq!(from(&[&server], &set).unwrap(), ["set/two.bin"]);
    let expected = ["other/one", "set/two.bin", "shards/.lock"];
    assert_eq!(files_in(dir.path()), expected);
}

#[test]
fn the_second_archive_stands_in_for_the_first() {
    let packed = honest(b"second");
    let dir = TempDir::new().unwrap();
    let set = set_of_archives([b"never served", &packed], &dir);
    let gone = || send(answer("404 Not Found", "Content-Length: 0\r\n", b""));
    let server = Server::new(vec![gone(), send(whole("v1", &packed))]);
    from(&[&server], &set).unwrap();
    assert!(server.requests()[1].starts_with("get /files/other.tar.gz "));
    let expected = ["set/one.bin", "set/two.bin", "shards/.lock"];
    assert_eq!(files_in(dir.path()), expected);
}

#[test]
fn hostile_and_damaged_archives_leave_nothing_behind() {
    let (file, link) = (tar::EntryType::Regular, tar::EntryType::Symlink);
    let whole_archive = honest(&content());
    let cases: [(Vec<u8>, &str); 4] = [
        (
            archive(&[("set/one.bin", link, b""), ("set/two.bin", file, b"2")]),
            "set/one.bin",
        ),
        (
            archive(&[("./set/one.bin/../x", file, b"1")]),
            "set/one.bin",
        ),
        (
            whole_archive[..whole_archive.len() / 2].to_vec(),
            "unpacked",
        ),
        (b"no archive".to_vec(), "unpacked"),
    ];
    for (packed, what) in cases {
        let dir = TempDir::new().unwrap();
        let set = set_of_archives([&packed, b""], &dir);
        let server = Server::new(vec![send(whole("v1", &packed))]);
        let e = from(&[&server], &set).unwrap_err();
        assert_eq!(e.kind, Kind::Corrupt, "{e}");
        assert!(
            e.message.contains(what) && e.message.contains("the moon"),
            "{e}"
        );
        let left = files_in(dir.path());
        let good = ["set.tar.gz", "set/one.bin", "set/two.bin", "shards/.lock"];
        assert!(
            left.iter().all(|name| good.contains(&name.as_str())),
            "{left:?}"
        );
        assert!(!dir.path().join("set/one.bin").is_symlink());
    }
}
