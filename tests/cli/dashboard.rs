//! `dashboard`: who is let in, what is shown while somebody trains, and the page in a browser.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::common::browser::Browser;
use crate::common::program::{Folder, send};
use crate::common::skip;

fn sweep(runs: usize, epochs: usize) -> Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 100}, "model": "linear",
        "loss_func": "logistic", "score_func": "logistic_accuracy", "opt": [{"name": "adam", "lr": 0.01}],
        "batch_size": 5, "max_epoch": epochs, "n_runs": runs,
    })
}

/// A dashboard, ended when dropped.
struct Dashboard {
    child: Child,
    /// `http://127.0.0.1:PORT/?token=TOKEN`
    address: String,
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dashboard {
    fn of(folder: &Folder, dir: &str) -> Dashboard {
        let mut command = folder.command(&format!("dashboard {dir}"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut address).unwrap();
        Dashboard {
            child,
            address: address.trim_end().to_owned(),
        }
    }

    fn port(&self) -> &str {
        let rest = self.address.strip_prefix("http://127.0.0.1:").unwrap();
        rest.split_once('/').unwrap().0
    }

    fn token(&self) -> &str {
        self.address.split_once("/?token=").unwrap().1
    }

    fn connect(&self, request: &str, host: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{}", self.port())).unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        BufReader::new(stream)
    }

    /// Status, head and body of an answer.
    fn asked(&self, request: &str, host: &str) -> (u16, String, String) {
        let mut text = String::new();
        let mut stream = self.connect(request, host);
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, String, String) {
        let with = if path.contains('?') { '&' } else { '?' };
        let request = format!("GET {path}{with}token={}", self.token());
        self.asked(&request, &format!("127.0.0.1:{}", self.port()))
    }

    /// What the page is told of the sweeps, again and again.
    fn events(&self) -> impl Iterator<Item = Value> {
        let request = format!("GET /events?token={}", self.token());
        let lines = self.connect(&request, "localhost").lines();
        lines.filter_map(|line| {
            let line = line.unwrap();
            let event = line.strip_prefix("data: ")?;
            Some(serde_json::from_str(event).unwrap())
        })
    }
}

/// All files below the working folder, and when they were changed.
fn files(folder: &Folder) -> BTreeMap<String, SystemTime> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.path("")];
    while let Some(dir) = folders.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(entry.path());
            }
            found.insert(entry.path().display().to_string(), meta.modified().unwrap());
        }
    }
    found
}

#[test]
fn only_who_knows_the_address_sees_the_sweeps_and_nothing_is_written() {
    let folder = Folder::new();
    let refused = folder.run("dashboard nowhere").code(2);
    refused.says(&["nowhere: there is no such folder"]);
    folder.config("a sweep+<b>", &sweep(2, 3));
    let mut train = folder.command("train -q");
    train.arg("a sweep+<b>.json").stdout(Stdio::null());
    assert!(train.status().unwrap().success());
    folder.write("output/broken.json", "[{");
    let before = files(&folder);
    let mut dashboard = Dashboard::of(&folder, "");
    let port = dashboard.port().to_owned();
    assert_eq!(dashboard.token().len(), 32);

    let (status, head, page) = dashboard.get("/");
    assert_eq!(status, 200);
    assert!(head.contains("Content-Security-Policy: default-src 'none'"));
    assert!(page.contains("<h1>Sweeps in output</h1>"));
    // With a forwarded port.
    let with_token = format!("GET /?token={}", dashboard.token());
    assert_eq!(dashboard.asked(&with_token, "localhost:1").0, 200);
    // A site whose name leads here.
    for host in [
        "example.org",
        &format!("example.org:{port}"),
        "127.0.0.1.example.org",
        "",
    ] {
        let (status, _, body) = dashboard.asked(&with_token, host);
        assert_eq!((status, body.contains("host")), (403, true), "{host}");
    }
    let other = format!("GET /?token={}", "0".repeat(32));
    for request in [
        "GET /",
        "GET /events",
        "GET /results?id=x",
        "GET /?token=",
        &other,
    ] {
        let (status, _, body) = dashboard.asked(request, "localhost");
        assert_eq!((status, body.contains("token")), (403, true), "{request}");
    }
    let post = format!("POST /?token={}", dashboard.token());
    assert_eq!(dashboard.asked(&post, "localhost").0, 405);
    assert_eq!(dashboard.get("/other").0, 404);

    let seen = dashboard.events().next().unwrap();
    let [sweep, broken] = &seen["sweeps"].as_array().unwrap()[..] else {
        panic!("two sweeps: {seen}");
    };
    assert_eq!(sweep["id"], "a sweep+<b>");
    let all = "2 of 2 runs done, 0 running, 0 failed, 0 to go";
    assert_eq!(sweep["summary"], all);
    assert_eq!(sweep["status"]["done"], 2);
    assert_eq!(broken["id"], "broken");
    assert!(
        broken["error"]
            .as_str()
            .unwrap()
            .contains("output/broken.json")
    );
    let (status, _, results) = dashboard.get("/results?id=a%20sweep%2B%3Cb%3E");
    assert_eq!(status, 200);
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!(results["experiments"][0]["settings"][0]["method"], "adam");
    let sections = results["sections"].as_str().unwrap();
    assert!(
        sections.contains("<h2>a sweep+&lt;b&gt;</h2>"),
        "{sections}"
    );
    for id in ["", "..", "../output/broken", ".hidden", "nothing"] {
        assert_eq!(dashboard.get(&format!("/results?id={id}")).0, 404, "{id}");
    }
    let (status, _, body) = dashboard.get("/results?id=broken");
    assert_eq!((status, body.contains("output/broken.json")), (500, true));

    let busy = folder.run(&format!("dashboard --port {port}")).code(74);
    busy.says(&[&format!("cannot listen on 127.0.0.1:{port}: "), "--port"]);
    assert!(files(&folder) == before);
    // The folder may come and go.
    fs::rename(folder.path("output"), folder.path("moved")).unwrap();
    let seen = dashboard.events().find(|seen| seen["error"].is_string());
    assert!(seen.unwrap()["error"].as_str().unwrap().contains("output"));
    fs::rename(folder.path("moved"), folder.path("output")).unwrap();
    let seen = dashboard.events().find(|seen| seen["error"].is_null());
    assert_eq!(seen.unwrap()["sweeps"][0]["summary"], all);
    send("INT", dashboard.child.id());
    assert_eq!(dashboard.child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_browser_shows_sweeps_while_they_are_trained() {
    let folder = Folder::new();
    let Some(browser) = Browser::start(&folder.path("profile")) else {
        return skip::skip(
            "a_browser_shows_sweeps_while_they_are_trained",
            "no chromedriver (Debian: chromium, chromium-driver)",
        );
    };
    let with = |lr: f64, epochs: usize| {
        json!({
            "dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 100}, "model": "linear",
            "loss_func": "logistic", "score_func": "logistic_accuracy", "opt": {"name": "adam", "lr": lr},
            "batch_size": 5, "max_epoch": epochs, "run_id": 0,
        })
    };
    folder.config("other", &sweep(1, 3));
    folder.config("begun", &json!([with(0.02, 1_000_000_000)]));
    folder.config("sweep", &json!([with(0.01, 3), with(0.02, 1_000_000_000)]));
    folder
        .run("train -q other.json sweep.json --only lr=0.01")
        .code(0);
    let train = "train sweep.json -q --threads 1";
    let start = |command: &str| {
        let mut trains = folder.command(command);
        trains.stdout(Stdio::null()).spawn().unwrap()
    };
    let mut trains = start(train);
    let mut begun = start("train begun.json -q --threads 1");
    // What the page shows open goes by what is trained when it first looks.
    for (id, trains) in [("sweep", &mut trains), ("begun", &mut begun)] {
        while !(folder.run(&format!("status {id}")).stdout).contains(" 1 running") {
            assert!(trains.try_wait().unwrap().is_none(), "{id} has ended");
            thread::sleep(Duration::from_millis(10));
        }
    }
    let dashboard = Dashboard::of(&folder, "output");
    browser.open(&dashboard.address);
    let until = |script: &str, expected: Value| browser.until(script, &expected);
    until(
        "[...document.querySelectorAll('h2')].map(h => h.textContent).slice(0, 3)",
        json!(["begun", "other", "sweep"]),
    );
    let cell = "document.querySelector('article:last-of-type td')?.textContent";
    until(cell, json!("name=adam:lr=0.02:run_id=0"));
    let summary = "document.querySelector('article:last-of-type .summary').textContent.split(', ').slice(0, 4)";
    let now = ["1 of 2 runs done", "1 running", "0 failed", "0 to go"];
    until(summary, json!(now));
    // The sweep that is trained is open, the other one once it is clicked.
    let drawn = "[...document.querySelectorAll('article')].map(a => a.querySelectorAll('figure svg').length)";
    until(drawn, json!([0, 0, 2]));
    browser.script("document.querySelectorAll('article .figures > summary')[1].click()");
    until(drawn, json!([0, 2, 2]));
    // The one that has begun, too, but has no results yet.
    let told = "document.querySelector('article .report').textContent";
    until(told, json!("No run is done yet."));
    send("INT", begun.id());
    begun.wait().unwrap();
    // What the reader has chosen stays when there are more results.
    browser.script(
        "const s = document.querySelector('article:last-of-type select'); s.value = 'model_norm'; \
         s.dispatchEvent(new Event('change'))",
    );
    send("INT", trains.id());
    trains.wait().unwrap();
    folder.config("sweep", &json!([with(0.01, 3), with(0.02, 3)]));
    folder.run(train).code(0);
    let settings = "document.querySelectorAll('article:last-of-type input.setting').length";
    until(settings, json!(2));
    let label = "document.querySelector('article:last-of-type svg').getAttribute('aria-label')";
    until(label, json!("Norm of the weights"));
    let log = browser.post("se/log", json!({"type": "browser"}));
    assert_eq!(log, json!([]), "the console has messages");
}
