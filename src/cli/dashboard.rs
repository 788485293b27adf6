//! `dashboard`: a page on the sweeps of a folder, for a browser on this machine.
//!
//! Other users of the machine, and pages of other sites in the same browser, can reach its port as well. So every address has a
//! token that nobody can guess, and a request must be meant for this machine by its name (`Host`): a site whose name is made to
//! lead here is refused.

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, Server};

use super::status::summary;
use super::{print, signals};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::results::progress::Watch;
use crate::results::{escape, output, record, report};
use crate::stop;

/// The folder is looked at this often, however many pages look at it.
const PAUSE: Duration = Duration::from_secs(1);

/// As `report` has it by default.
const RANK_BY: &str = "val_score";

/// Where nothing has changed, something is sent this often, to notice who has gone.
const SILENCE: Duration = Duration::from_secs(10);

/// Show the sweeps of a folder in a browser, while they are trained
///
/// Prints the address of a page: what is done, running, failed and to go of every sweep, and the results so far as `report` shows
/// them. Nothing is written, and the page is for browsers on this machine alone; to see it from another one, forward the port:
/// ssh -L 8000:127.0.0.1:8000 HOST, with --port 8000 here. Ctrl-C ends it.
#[derive(clap::Args)]
pub struct Dashboard {
    /// Folder of the output files
    #[arg(value_name = "DIR", default_value = "output")]
    dir: PathBuf,
    /// Port to listen on [default: one that is free]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
}

impl Dashboard {
    pub fn run(self) -> Result<u8> {
        if !self.dir.is_dir() {
            let dir = self.dir.display();
            return Err(Error::usage(format!("{dir}: there is no such folder")));
        }
        let failed = |e: &dyn std::fmt::Display| {
            let text = match self.port {
                Some(port) => format!(
                    "cannot listen on 127.0.0.1:{port}: {e}; choose another port, or leave --port out"
                ),
                None => format!("cannot listen on 127.0.0.1: {e}"),
            };
            Error::new(Kind::Io, text)
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.unwrap_or(0)));
        let listener = TcpListener::bind(address).map_err(|e| failed(&e))?;
        let address = listener.local_addr().map_err(|e| failed(&e))?;
        let server = Server::from_listener(listener, None).map_err(|e| failed(&e))?;
        let site = Arc::new(Site {
            dir: self.dir,
            token: secret()?,
            seen: Mutex::default(),
        });
        signals::listen()?;
        print::println(format!("http://{address}/?token={}", site.token))?;
        while !stop::flag().load(Ordering::Relaxed) {
            let request = server.recv_timeout(Duration::from_millis(100));
            if let Some(request) = request.map_err(|e| failed(&e))? {
                let site = site.clone();
                // Where the system gives no thread, the request is answered with an error.
                let _ = thread::Builder::new().spawn(move || site.answer(request));
            }
        }
        Ok(signals::received().unwrap_or(0))
    }
}

/// 128 random bits.
fn secret() -> Result<String> {
    let (source, mut bytes) = (Path::new("/dev/urandom"), [0; 16]);
    let drawn = File::open(source).and_then(|mut file| file.read_exact(&mut bytes));
    drawn.map_err(|e| Error::io("read", source, &e))?;
    Ok(files::hex(&bytes))
}

struct Site {
    dir: PathBuf,
    token: String,
    seen: Mutex<Seen>,
}

/// The sweeps as they were when somebody last looked.
#[derive(Default)]
struct Seen {
    watch: Watch,
    /// When that was.
    at: Option<Instant>,
    /// As JSON.
    text: Arc<str>,
}

type Answer = Response<Cursor<Vec<u8>>>;

const PLAIN: &str = "text/plain; charset=utf-8";

impl Site {
    fn answer(&self, request: Request) {
        // Who has gone need not be told.
        let _ = match self.route(&request) {
            Some(answer) => request.respond(answer),
            None => self.send_events(&mut request.into_writer()),
        };
    }

    /// None for events, which do not end.
    fn route(&self, request: &Request) -> Option<Answer> {
        let mut headers = request.headers().iter();
        let host = headers.find(|header| header.field.equiv("Host"));
        let refused = |status, text: &str| Some(answer(status, PLAIN, text.to_owned() + "\n"));
        if !host.is_some_and(|host| is_here(host.value.as_str())) {
            return refused(
                403,
                "This host is not known here: use 127.0.0.1 or localhost.",
            );
        }
        let url = request.url();
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|pair| pair.0 == name)?;
            percent_decode_str(value).decode_utf8().ok()
        };
        if !parameter("token").is_some_and(|token| is_same(&token, &self.token)) {
            return refused(
                403,
                "The token is missing or wrong: open the whole address that `stepback-native dashboard` printed.",
            );
        }
        let found = match (request.method(), path) {
            (Method::Get, "/") => self.page(),
            (Method::Get, "/results") => self.results(&parameter("id").unwrap_or_default()),
            (Method::Get, "/events") => return None,
            (Method::Get, _) => return refused(404, "There is no such page."),
            _ => return refused(405, "Only GET is understood."),
        };
        match found {
            Ok(answer) => Some(answer),
            Err(error) if error.kind == Kind::Usage => refused(404, &error.message),
            Err(error) => refused(500, &error.message),
        }
    }

    fn page(&self) -> Result<Answer> {
        let nonce = secret()?;
        let title = escape::xml(&format!("Sweeps in {}", self.dir.display()));
        let places = [("TITLE", title.as_str()), ("NONCE", &nonce)];
        let page = report::page(include_str!("../../assets/dashboard.html"), &places);
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let page = answer(200, "text/html; charset=utf-8", page);
        Ok(page.with_header(header("Content-Security-Policy", &policy)))
    }

    /// What `report` shows of a sweep, as far as its runs are done.
    fn results(&self, id: &str) -> Result<Answer> {
        if id.starts_with('.') || Path::new(id).file_name() != Some(id.as_ref()) {
            return Err(Error::usage(format!("there is no sweep {id:?}")));
        }
        let runs = output::read(&self.dir.join(format!("{id}.json")))?;
        let records = record::from_runs(id, runs)?;
        let report::Parts { sections, mut data } = report::parts(&records, RANK_BY, None)?;
        data["sections"] = sections.into();
        Ok(answer(200, "application/json", data.to_string()))
    }

    /// All sweeps, now and whenever something has changed.
    fn send_events(&self, out: &mut dyn Write) -> io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
                    Connection: close\r\n\r\n";
        out.write_all(head.as_bytes())?;
        let mut last: Arc<str> = "".into();
        let mut said = Instant::now();
        loop {
            let now = self.look();
            if now != last {
                write!(out, "data: {now}\n\n")?;
                (last, said) = (now, Instant::now());
            } else if said.elapsed() >= SILENCE {
                // A comment, which browsers pass over.
                out.write_all(b":\n\n")?;
                said = Instant::now();
            }
            out.flush()?;
            thread::sleep(PAUSE);
        }
    }

    fn look(&self) -> Arc<str> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.at.is_none_or(|at| at.elapsed() >= PAUSE) {
            seen.text = self.sweeps(&mut seen.watch).to_string().into();
            seen.at = Some(Instant::now());
        }
        seen.text.clone()
    }

    fn sweeps(&self, watch: &mut Watch) -> Value {
        let sweeps = match watch.folder(&self.dir) {
            Ok(sweeps) => sweeps,
            Err(error) => return json!({"error": error.message, "sweeps": []}),
        };
        let sweep = |(id, status): (String, Result<_>)| match status {
            Ok(status) => json!({"id": id, "summary": summary(&status), "status": status}),
            Err(error) => json!({"id": id, "error": error.message}),
        };
        json!({"sweeps": sweeps.into_iter().map(sweep).collect::<Vec<_>>()})
    }
}

fn answer(status: u16, kind: &str, text: String) -> Answer {
    let headers = [
        ("Content-Type", kind),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
    ];
    let plain = Response::from_data(text).with_status_code(status);
    headers.into_iter().fold(plain, |answer, (name, value)| {
        answer.with_header(header(name, value))
    })
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("names and values are ASCII")
}

/// Is this name, with any port, one of this machine alone? Ports may be forwarded, names may not.
fn is_here(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    ["127.0.0.1", "localhost"].contains(&name)
}

/// In a time that does not tell where they differ.
fn is_same(a: &str, b: &str) -> bool {
    let differing = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differing == 0
}
