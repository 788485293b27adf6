//! A browser that is looked into by scripts.
#![allow(dead_code)] // each test binary uses its part

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A chromedriver and its session, ended when dropped.
pub struct Browser {
    driver: Child,
    session: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ureq::delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Browser {
    pub fn start(profile: &Path) -> Option<Browser> {
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .spawn();
        let mut driver = driver.ok()?;
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.ok()?;
            let rest = line.split("started successfully on port ").nth(1)?;
            Some(rest.trim_end_matches('.').to_owned())
        })?;
        // chromedriver must be able to go on writing.
        thread::spawn(move || lines.for_each(drop));
        let base = format!("http://127.0.0.1:{port}/session");
        let mut browser = Browser {
            driver,
            session: base.clone(),
        };
        let profile = format!("--user-data-dir={}", profile.display());
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            &profile,
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer = browser.post_to(&base, &capabilities);
        browser.session = format!(
            "{base}/{}",
            answer["sessionId"].as_str().expect("a session")
        );
        Some(browser)
    }

    fn post_to(&self, address: &str, body: &Value) -> Value {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let mut answer = agent.post(address).send(body.to_string()).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["value"]["error"].is_null(), "{text}");
        value["value"].clone()
    }

    pub fn post(&self, command: &str, body: Value) -> Value {
        self.post_to(&format!("{}/{command}", self.session), &body)
    }

    /// Shows a page, once all of it is there: the driver may come back earlier.
    pub fn open(&self, address: &str) {
        self.post("url", json!({"url": address}));
        self.until("document.readyState", &json!("complete"));
    }

    /// Waits until an expression is this; not for ever.
    pub fn until(&self, expression: &str, expected: &Value) {
        let begin = Instant::now();
        loop {
            let value = self.script(&format!("return {expression}"));
            if value == *expected {
                return;
            }
            let waits = begin.elapsed() < Duration::from_secs(120);
            assert!(waits, "{expression} is {value} and not {expected}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn script(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []}))
    }
}
