//! Event files, as TensorBoard reads them.
//!
//! A file is a list of records: length (u64), its checksum, a message in the form of protocol buffers, its checksum (both
//! CRC-32C, masked as TensorFlow masks them). The messages are `Event` and `Summary` of TensorFlow's `event.proto` and
//! `summary.proto`, of which scalars need five fields.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Epoch;
use super::provenance;
use crate::config::RunConfig;
use crate::error::{Error, Result};

/// A folder of runs, each with a folder of its own.
#[derive(Debug)]
pub struct Board {
    folder: PathBuf,
    runs: Mutex<HashMap<String, Events>>,
}

impl Board {
    pub fn new(folder: PathBuf) -> Board {
        Board {
            folder,
            runs: Mutex::default(),
        }
    }

    /// Adds what an epoch has given, at the epoch's number, and what was logged of its steps, at theirs. It is in the file
    /// when this returns.
    pub fn epoch(&self, run: &RunConfig, done: &Epoch) -> Result<()> {
        let name = name(run);
        let folder = self.folder.join(&name);
        let cannot = |e: io::Error| Error::io("write", &folder, &e);
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if !runs.contains_key(&name) {
            let events = Events::create(&folder).map_err(cannot)?;
            runs.insert(name.clone(), events);
        }
        let events = runs.get_mut(&name).expect("it was opened");
        for (tag, steps) in &done.step_logs {
            let tag = format!("step/{tag}");
            for (step, value) in steps {
                let value = value.number().unwrap_or(f64::NAN);
                events.add(*step, &[(&tag, value)]);
            }
        }
        let scalars = [
            ("loss/train", done.train_loss),
            ("loss/validation", done.val_loss),
            ("score/train", done.train_score),
            ("score/validation", done.val_score),
            ("norm/weights", done.model_norm.into()),
            ("norm/gradient", done.grad_norm.into()),
            (
                "learning_rate",
                done.learning_rate.number().unwrap_or(f64::NAN),
            ),
            ("seconds/train", done.train_epoch_time),
            ("seconds/evaluation", done.eval_epoch_time),
        ];
        events.add(done.epoch, &scalars);
        events
            .file
            .write_all(&std::mem::take(&mut events.behind))
            .map_err(cannot)
    }
}

/// A run's folder: its label, and digits that tell it from those that differ in what the label leaves out.
fn name(run: &RunConfig) -> String {
    let sum = crc32c::crc32c(run.identity().as_bytes());
    format!("{}-{sum:08x}", run.file_label())
}

/// A file of events.
#[derive(Debug)]
struct Events {
    file: File,
    /// What is not in the file yet.
    behind: Vec<u8>,
}

impl Events {
    /// A new file of the folder, whose name no other process takes.
    fn create(folder: &Path) -> io::Result<Events> {
        fs::create_dir_all(folder)?;
        let seconds = now() as u64;
        let (host, process) = (provenance::host().replace('/', "_"), std::process::id());
        let path = folder.join(format!("events.out.tfevents.{seconds}.{host}.{process}"));
        let mut events = Events {
            file: File::create(path)?,
            behind: Vec::new(),
        };
        let mut event = Message::default();
        event.double(1, now());
        event.bytes(3, b"brain.Event:2");
        events.push(&event.0);
        Ok(events)
    }

    fn add(&mut self, step: usize, scalars: &[(&str, f64)]) {
        let mut summary = Message::default();
        for (tag, value) in scalars {
            let mut scalar = Message::default();
            scalar.bytes(1, tag.as_bytes());
            scalar.float(2, *value as f32);
            summary.bytes(1, &scalar.0);
        }
        let mut event = Message::default();
        event.double(1, now());
        event.integer(2, step as u64);
        event.bytes(5, &summary.0);
        self.push(&event.0);
    }

    fn push(&mut self, message: &[u8]) {
        let length = (message.len() as u64).to_le_bytes();
        for part in [&length[..], message] {
            self.behind.extend(part);
            self.behind.extend(masked(part).to_le_bytes());
        }
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |time| time.as_secs_f64())
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// A message in the form of protocol buffers: fields, each behind its number and kind.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut x: u64) {
        while x >= 0x80 {
            self.0.push(x as u8 | 0x80);
            x >>= 7;
        }
        self.0.push(x as u8);
    }

    fn integer(&mut self, field: u64, x: u64) {
        self.varint(field << 3);
        self.varint(x);
    }

    fn double(&mut self, field: u64, x: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(x.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn float(&mut self, field: u64, x: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(x.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_the_format() {
        // By hand: {wall_time: 0, step: 300, summary: {value: {tag: "a", simple_value: 1.5}}}.
        let mut scalar = Message::default();
        scalar.bytes(1, b"a");
        scalar.float(2, 1.5);
        let mut event = Message::default();
        event.double(1, 0.0);
        event.integer(2, 300);
        event.bytes(5, &scalar.0);
        let expected = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0x10, 0xac, 0x02],
            &[0x2a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0xc0, 0x3f],
        ];
        assert_eq!(event.0, expected.concat());
        // CRC-32C of these digits is e3069283; rotated by 15 bits to the right, and a282ead8 added.
        assert_eq!(masked(b"123456789"), 0xc78a_b0e5);
    }
}
