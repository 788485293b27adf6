//! Running the binary in a folder of its own.
#![allow(dead_code)] // each test binary uses its part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

pub struct Folder(TempDir);

/// What a finished command left behind.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Ended with this exit code, else the test fails with what was printed.
    pub fn code(self, code: i32) -> Ran {
        let (out, err) = (&self.stdout, &self.stderr);
        assert_eq!(self.code, Some(code), "stdout: {out}\nstderr: {err}");
        self
    }

    /// One error on stderr that has all these fragments.
    pub fn says(self, fragments: &[&str]) -> Ran {
        let err = &self.stderr;
        assert!(err.starts_with("error: "), "stderr: {err}");
        assert!(!err.contains("panicked"), "stderr: {err}");
        for fragment in fragments {
            assert!(err.contains(fragment), "no {fragment:?} in stderr: {err}");
        }
        self
    }
}

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(relative)
    }

    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub fn config(&self, name: &str, config: &Value) {
        self.write(&format!("{name}.json"), config.to_string());
    }

    pub fn read(&self, relative: &str) -> String {
        let path = self.path(relative);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn exists(&self, relative: &str) -> bool {
        self.path(relative).exists()
    }

    /// The binary with arguments separated by blanks, this folder being its working directory.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stepback-native"));
        command
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &str) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// As [`Folder::run`], after a line of shell that limits what a process may have.
    pub fn limited(&self, limit: &str, arguments: &str) -> Ran {
        let program = env!("CARGO_BIN_EXE_stepback-native");
        let script = format!("{limit}; exec '{program}' {arguments}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(self.0.path());
        shell.stdin(Stdio::null()).output().unwrap().into()
    }

    /// What lies in a folder, hidden files too.
    pub fn names(&self, relative: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(relative)).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

/// An output file's text without the lines that hold times, or how it was asked for.
pub fn without_times(text: &str) -> String {
    let timed = [
        "\"train_epoch_time\"",
        "\"eval_epoch_time\"",
        "\"start_time\"",
        "\"end_time\"",
        "\"command\"",
        "\"threads\"",
        // Workspace goes by threads.
        "\"peak_memory_bytes\"",
        "\"update_seconds\"",
        "\"update_share\"",
    ];
    let lines = text.lines();
    let kept = lines.filter(|line| !timed.iter().any(|key| line.contains(key)));
    kept.collect::<Vec<_>>().join("\n")
}

/// How many runs an output file holds; the test fails if it is not whole.
pub fn runs_in(text: &str) -> usize {
    use stepback_native::results::json::{self, Json};
    match json::parse(text) {
        Ok(Json::List(runs)) => runs.len(),
        Ok(_) => panic!("the output is no list"),
        Err(e) => panic!("the output is damaged: {e}"),
    }
}

pub fn send(signal: &str, pid: u32) {
    let sent = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status();
    assert!(sent.as_ref().is_ok_and(ExitStatus::success), "{sent:?}");
}
