//! `sensor`: hourly measurements of air-quality sensors, a matrix with gaps (zeros) to be completed.

use super::packed;
use super::raw::{self, Files, RawFile};
use super::shard::{Contents, Features, Form, Shard, Targets, Writer};
use super::{Origin, Part, Request, Row, Split, TARGET_SEED};
use crate::config::Entry;
use crate::error::Result;
use crate::graph::Sample;
use crate::random::numpy::RandomState;
use std::io::Read;
use std::path::{Path, PathBuf};

pub const ROW: Row = Row {
    entry: Entry {
        name: "sensor",
        about: "air-quality sensors by hour; a sample is (row, column), its target the value there",
        paper: "",
        keys: &[],
    },
    origin: Origin::Files(Files {
        raw: &[RawFile {
            names: &["sensor/Ventana_Eli_mes1.csv"],
            md5: &[],
            remote: None,
        }],
        convert,
        open,
        form: Form {
            features: Features::Floats,
            sample: Some(&[2]),
            classes: None,
            // Up to there floats tell whole numbers apart.
            places: Some(1 << 24),
        },
        limit: LIMIT,
        archives: &[],
        mirrors: &[],
        home: "the step-back repository, https://github.com/fabian-sp/step-back (data/sensor)",
    }),
};

fn convert(paths: &[PathBuf], train_size: f64, train: &mut Writer, val: &mut Writer) -> Result<()> {
    let path = &paths[0];
    let entries = read(path)?;
    let order = RandomState::new(TARGET_SEED).permutation(entries.len());
    let (first, second) = order.split_at((train_size * entries.len() as f64) as usize);
    if first.is_empty() || second.is_empty() {
        return Err(raw::damaged(path, "it has fewer than two nonzero values"));
    }
    // Mean and population standard deviation of the training half serve both.
    let values = || first.iter().map(|i| entries[*i as usize].1);
    let mean = values().sum::<f64>() / first.len() as f64;
    let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / first.len() as f64;
    let std = variance.sqrt();
    if std == 0.0 {
        return Err(raw::damaged(path, "its values are all the same"));
    }
    for (half, out) in [(first, train), (second, val)] {
        let entries = || half.iter().map(|i| &entries[*i as usize]);
        let positions: Vec<[f32; 2]> = entries().map(|(position, _)| *position).collect();
        let targets: Vec<f32> = entries().map(|(_, v)| ((v - mean) / std) as f32).collect();
        out.features(bytemuck::cast_slice(&positions))?;
        out.finish(&Contents {
            features: Features::Floats,
            sample: &[2],
            target: &[1],
            targets: Targets::Floats(&targets),
            rows: &[],
        })?;
    }
    Ok(())
}

/// Bytes that no table of hourly measurements has.
const LIMIT: u64 = 1 << 28;

/// The nonzero values with their row and column, row by row. The first line holds the columns' names and
/// the first column the rows'.
fn read(path: &Path) -> Result<Vec<([f32; 2], f64)>> {
    let mut text = Vec::new();
    let read = packed::open(path, LIMIT)?.read_to_end(&mut text);
    read.map_err(|e| packed::read_error(path, &e))?;
    if !text.ends_with(b"\n") {
        let text = "its last line has no end: the file was cut there";
        return Err(raw::damaged(path, text));
    }
    let mut entries = Vec::new();
    let mut reader = csv::Reader::from_reader(text.as_slice());
    for (row, record) in reader.records().enumerate() {
        let record = record.map_err(|e| match e.into_kind() {
            csv::ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => {
                let line = row + 2;
                let text = format!("line {line} has {len} fields where others have {expected_len}");
                raw::damaged(path, text)
            }
            _ => raw::damaged(path, format_args!("line {} is not UTF-8", row + 2)),
        })?;
        for (column, field) in record.iter().skip(1).enumerate() {
            let wrong = |what: &str| {
                let (line, number) = (row + 2, column + 2);
                let text = format!("line {line}, field {number} is {field:?}, not a number{what}");
                raw::damaged(path, text)
            };
            let value = field.trim().parse::<f64>().ok().filter(|v| v.is_finite());
            let value = value.ok_or_else(|| wrong(""))?;
            if !(value as f32).is_finite() {
                return Err(wrong(" of 32 bits"));
            }
            if value != 0.0 {
                entries.push(([row as f32, column as f32], value));
            }
        }
    }
    Ok(entries)
}

fn open(shard: Shard, _: Part, _: &Request) -> Result<Split> {
    Ok(Split::of_shard(shard, Sample::Vector(2), Vec::new()).as_index_pairs())
}
