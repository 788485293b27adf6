//! The shard format: what is written is read, and nothing else is.

use proptest::prelude::*;
use std::fs;
use std::path::Path;
use stepback_native::data::shard::{
    BLOCK, Contents, Features, HEADER, Shard, Source, Targets, VERSION, Writer, parse,
};
use stepback_native::data::{Split, Vocabulary};
use stepback_native::error::Kind;
use stepback_native::graph::Sample;
use tempfile::TempDir;

/// What goes into a shard, and comes out of it again.
#[derive(Clone, Debug)]
struct Case {
    features: Features,
    sample: Vec<usize>,
    /// One row per sample; sparse rows as (column, value).
    bytes: Vec<Vec<u8>>,
    floats: Vec<Vec<f32>>,
    sparse: Vec<Vec<(u32, f32)>>,
    labels: Option<Vec<u32>>,
    targets: Vec<f32>,
    target: Vec<usize>,
}

impl Case {
    fn write(&self, dir: &TempDir) -> std::path::PathBuf {
        let path = dir.path().join("case.shard");
        let mut writer = Writer::create(&path).unwrap();
        let mut rows = Vec::new();
        match self.features {
            Features::Bytes | Features::Tokens => self
                .bytes
                .iter()
                .for_each(|row| writer.features(row).unwrap()),
            Features::Floats => self.floats.iter().for_each(|row| {
                writer.features(bytemuck::cast_slice(row)).unwrap();
            }),
            Features::Sparse => {
                rows.push(0);
                for row in &self.sparse {
                    for (column, value) in row {
                        let pair = [*column, value.to_bits()];
                        writer.features(bytemuck::cast_slice(&pair)).unwrap();
                    }
                    rows.push(rows.last().unwrap() + row.len() as u64);
                }
            }
        }
        let targets = match &self.labels {
            _ if self.features == Features::Tokens => Targets::Next {
                codes: CODES,
                skipped: 3,
            },
            Some(labels) => Targets::Classes {
                labels,
                classes: 10,
            },
            None => Targets::Floats(&self.targets),
        };
        writer
            .finish(&Contents {
                features: self.features,
                sample: &self.sample,
                target: &self.target,
                targets,
                rows: &rows,
            })
            .unwrap();
        writer.commit(vec![source("raw/ä"), source("b")]).unwrap();
        path
    }
}

const CODES: u32 = 250;

fn source(name: &str) -> Source {
    Source {
        name: name.into(),
        size: 5,
        modified: -7,
        md5: [9; 16],
    }
}

fn case() -> impl Strategy<Value = Case> {
    let features = prop_oneof![
        Just(Features::Bytes),
        Just(Features::Floats),
        Just(Features::Sparse),
        Just(Features::Tokens)
    ];
    let shape = (
        1usize..40,
        prop::collection::vec(1usize..5, 1..5),
        1usize..4,
    );
    (features, shape, any::<bool>(), any::<u64>()).prop_map(|(features, shape, classes, seed)| {
        let (n, mut sample, targets) = shape;
        match features {
            Features::Sparse => sample.truncate(1),
            Features::Tokens => sample = vec![1],
            Features::Bytes | Features::Floats => {}
        }
        let classes = classes || features == Features::Tokens;
        let width: usize = sample.iter().product();
        let mut random = stepback_native::random::torch::Generator::new(seed);
        let mut rows = |width: usize| -> Vec<Vec<f32>> {
            let row = |_| (0..width).map(|_| random.rand1() * 8.0 - 4.0).collect();
            (0..n).map(row).collect()
        };
        let (floats, target) = (rows(width), if classes { 1 } else { targets });
        let sparse = |row: &Vec<f32>| {
            let pairs = (0u32..).zip(row.iter().copied());
            pairs.filter(|(_, value)| *value > 0.0).collect()
        };
        Case {
            features,
            sample,
            bytes: floats
                .iter()
                .map(|row| {
                    row.iter()
                        .map(|v| ((v * 30.0) as i8 as u8).min(CODES as u8 - 1))
                        .collect()
                })
                .collect(),
            sparse: floats.iter().map(sparse).collect(),
            floats,
            labels: classes.then(|| (0..n as u32).map(|i| i * 3 % 10).collect()),
            targets: rows(target).concat(),
            target: vec![target],
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn round_trip(case in case()) {
        let dir = TempDir::new().unwrap();
        let path = case.write(&dir);
        let shard = Shard::open(&path).unwrap();
        let header = shard.header().clone();
        prop_assert_eq!(&header.sources, &[source("raw/ä"), source("b")]);
        if case.features == Features::Tokens {
            prop_assert_eq!((header.classes, header.skipped), (Some(CODES), 3));
            return check_windows(&path, &case.bytes.concat());
        }
        prop_assert_eq!(header.classes, case.labels.as_ref().map(|_| 10));

        let tables: Vec<[f32; 256]> = match case.features {
            Features::Bytes => vec![std::array::from_fn(|i| i as f32)],
            _ => Vec::new(),
        };
        let split = Split::of_shard(shard, Sample::Vector(case.sample.iter().product()), tables);
        let (n, width) = (case.floats.len(), case.floats[0].len());
        prop_assert_eq!(split.len(), n);
        let mut x = vec![f32::NAN; n * width];
        let mut y = vec![f32::NAN; n * case.target[0]];
        split.gather(&(0..n as u32).collect::<Vec<_>>(), &[], &mut x, &mut y);
        let expected: Vec<f32> = match case.features {
            Features::Bytes => case.bytes.concat().into_iter().map(f32::from).collect(),
            Features::Floats => case.floats.concat(),
            Features::Sparse => case.floats.concat().into_iter().map(|v| v.max(0.0)).collect(),
            Features::Tokens => unreachable!(),
        };
        prop_assert_eq!(x, expected);
        match &case.labels {
            Some(labels) => prop_assert_eq!(y, labels.iter().map(|l| *l as f32).collect::<Vec<_>>()),
            None => prop_assert_eq!(y, case.targets.clone()),
        }
    }

    /// A header that the checksum vouches for, but with any numbers in it.
    #[test]
    fn no_header_makes_it_panic(edits in prop::collection::vec((12usize..90, any::<u8>()), 1..12)) {
        for features in KINDS {
            let mut bytes = small(features);
            for (at, value) in &edits {
                bytes[*at] = *value;
            }
            reseal(&mut bytes);
            // Accepted or not, it comes back.
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(parse(&bytes).is_err());
        let start = small(Features::Bytes);
        for (ours, theirs) in bytes.iter_mut().zip(&start[..12]) {
            *ours = *theirs;
        }
        prop_assert!(parse(&bytes).is_err());
    }
}

/// Windows of every length of these tokens, and the tokens one later, last window first.
fn check_windows(path: &Path, tokens: &[u8]) -> Result<(), TestCaseError> {
    for length in 1..tokens.len() {
        let split = Split::of_tokens(Shard::open(path).unwrap(), length, Vocabulary::Bytes);
        let n = (tokens.len() - 1) / length;
        prop_assert_eq!((split.len(), split.classes()), (n, Some(CODES as usize)));
        prop_assert_eq!(split.sample(), Sample::Tokens { length });
        prop_assert_eq!(
            (split.target_shape(), split.tokens()),
            (&[length][..], Some(tokens))
        );
        let mut x = vec![f32::NAN; n * length];
        let mut y = x.clone();
        split.gather(
            &(0..n as u32).rev().collect::<Vec<_>>(),
            &[],
            &mut x,
            &mut y,
        );
        for (i, (x, y)) in x
            .chunks(length)
            .rev()
            .zip(y.chunks(length).rev())
            .enumerate()
        {
            let place = i * length..(i + 1) * length;
            let floats = |tokens: &[u8]| tokens.iter().map(|t| f32::from(*t)).collect::<Vec<_>>();
            prop_assert_eq!(x, floats(&tokens[place.clone()]));
            prop_assert_eq!(y, floats(&tokens[place.start + 1..=place.end]));
        }
    }
    Ok(())
}

/// A shard of five samples.
fn small(features: Features) -> Vec<u8> {
    let row = |i: usize| vec![i as f32, 2.0, 3.0];
    let case = Case {
        features,
        sample: vec![if features == Features::Tokens { 1 } else { 3 }],
        bytes: match features {
            Features::Tokens => (0..5).map(|i| vec![i]).collect(),
            _ => (0..5).map(|i| vec![i, 1, 2]).collect(),
        },
        floats: (0..5).map(row).collect(),
        sparse: (0..5).map(|i| vec![(i % 3, 1.5), (2, 2.5)]).collect(),
        labels: (features == Features::Bytes).then(|| vec![1, 2, 3, 4, 5]),
        targets: vec![0.5; 5],
        target: vec![1],
    };
    fs::read(case.write(&TempDir::new().unwrap())).unwrap()
}

/// Makes all checksums of a shard of one block right again.
fn reseal(bytes: &mut [u8]) {
    let end = bytes.len();
    let header = crc32c::crc32c(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&header.to_le_bytes());
    let body = crc32c::crc32c(&bytes[HEADER..end - 8]).to_le_bytes();
    bytes[end - 8..end - 4].copy_from_slice(&body);
    bytes[end - 4..].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
}

fn refused(bytes: &[u8], what: &str) {
    let e = parse(bytes).expect_err("an error");
    assert_eq!(e.kind, Kind::Corrupt);
    assert!(e.message.contains(what), "{what:?} is not in {e}");
}

const KINDS: [Features; 4] = [
    Features::Bytes,
    Features::Floats,
    Features::Sparse,
    Features::Tokens,
];

#[test]
fn every_prefix_is_refused() {
    for features in KINDS {
        let bytes = small(features);
        parse(&bytes).unwrap();
        for length in 0..bytes.len() {
            refused(&bytes[..length], "bytes");
        }
        refused(&[bytes, vec![0]].concat(), "bytes");
    }
}

#[test]
fn every_flipped_byte_is_refused() {
    for features in KINDS {
        let mut bytes = small(features);
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                bytes[at] ^= flip;
                refused(&bytes, "");
                bytes[at] ^= flip;
            }
        }
        parse(&bytes).unwrap();
    }
}

#[test]
fn the_damaged_block_is_named() {
    let case = Case {
        features: Features::Bytes,
        sample: vec![100],
        bytes: vec![vec![7; 100]; 2000],
        floats: Vec::new(),
        sparse: Vec::new(),
        labels: Some(vec![1; 2000]),
        targets: Vec::new(),
        target: vec![1],
    };
    let mut bytes = fs::read(case.write(&TempDir::new().unwrap())).unwrap();
    parse(&bytes).unwrap();
    bytes[HEADER + 2 * BLOCK + 5] ^= 1;
    bytes[HEADER + 3 * BLOCK + 5] ^= 1;
    let range = format!("bytes {} to {}", HEADER + 2 * BLOCK, HEADER + 3 * BLOCK);
    refused(&bytes, &format!("block 2 ({range})"));
}

#[test]
fn other_versions_and_other_files_are_told_apart() {
    let mut bytes = small(Features::Floats);
    bytes[8] += 1;
    refused(&bytes, &format!("version {}", VERSION + 1));
    bytes[0] = 0;
    refused(&bytes, "no shard");
    refused(&[], "0 bytes");
}

/// Checksums tell of accidents; a program that writes nonsense can make them right.
#[test]
fn nonsense_with_right_checksums_is_refused() {
    let edited = |features, edits: &[(usize, u8)]| {
        let mut bytes = small(features);
        for (at, value) in edits {
            bytes[*at] = *value;
        }
        reseal(&mut bytes);
        bytes
    };
    // Behind the version: u8 features, u32 classes, u64 samples, u64 pairs, shapes.
    refused(&edited(Features::Bytes, &[(12, 4)]), "no sense");
    refused(&edited(Features::Bytes, &[(12, 5)]), "no sense");
    refused(&edited(Features::Bytes, &[(13, 5)]), "class of sample 4");
    refused(&edited(Features::Tokens, &[(13, 4)]), "code of token 4");
    refused(&edited(Features::Tokens, &[(13, 0)]), "no sense");
    refused(&edited(Features::Tokens, &[(14, 1)]), "no sense");
    refused(&edited(Features::Tokens, &[(34, 2)]), "no sense");
    let (samples, pairs, sample) = (17, 25, 33);
    refused(&edited(Features::Bytes, &[(samples, 0)]), "no sense");
    refused(&edited(Features::Bytes, &[(samples + 7, 0xff)]), "no sense");
    refused(&edited(Features::Bytes, &[(samples + 3, 0xff)]), "asks for");
    refused(&edited(Features::Bytes, &[(pairs, 1)]), "no sense");
    refused(&edited(Features::Sparse, &[(pairs + 7, 0x7f)]), "no sense");
    refused(&edited(Features::Bytes, &[(sample, 0)]), "no sense");
    refused(&edited(Features::Bytes, &[(sample, 200)]), "no sense");
    refused(&edited(Features::Bytes, &[(sample + 1, 0)]), "no sense");
    // The first pair's column; then the row starts, which follow ten pairs of eight bytes.
    refused(
        &edited(Features::Sparse, &[(HEADER, 3)]),
        "column of pair 0",
    );
    let rows = HEADER + 128;
    refused(&edited(Features::Sparse, &[(rows + 8, 9)]), "rows");
    refused(&edited(Features::Sparse, &[(rows, 1)]), "rows");
    refused(&edited(Features::Sparse, &[(rows + 40, 9)]), "rows");
}

#[test]
fn channels_have_tables_of_their_own() {
    let case = Case {
        features: Features::Bytes,
        sample: vec![1, 2, 3],
        bytes: vec![vec![0, 1, 2, 3, 4, 5], vec![250, 251, 252, 253, 254, 255]],
        floats: Vec::new(),
        sparse: Vec::new(),
        labels: Some(vec![8, 9]),
        targets: Vec::new(),
        target: vec![1],
    };
    let dir = TempDir::new().unwrap();
    let shard = Shard::open(&case.write(&dir)).unwrap();
    let tables = [1000.0, 2000.0, 3000.0].map(|base| std::array::from_fn(|i| base + i as f32));
    let split = Split::of_shard(shard, Sample::of_shape(&[3, 1, 2]), tables.to_vec());
    let (mut x, mut y) = ([0.0; 12], [0.0; 2]);
    split.gather(&[1, 0], &[], &mut x, &mut y);
    assert_eq!(x[..6], [1250.0, 2251.0, 3252.0, 1253.0, 2254.0, 3255.0]);
    assert_eq!(x[6..], [1000.0, 2001.0, 3002.0, 1003.0, 2004.0, 3005.0]);
    assert_eq!((y, split.sample().shape()), ([9.0, 8.0], vec![3, 1, 2]));
}

#[test]
fn empty_and_foreign_files_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.shard");
    for bytes in [&b""[..], b"PK\x03\x04", &[0; 10_000]] {
        fs::write(&path, bytes).unwrap();
        let e = Shard::open(&path).err().unwrap();
        assert_eq!(e.kind, Kind::Corrupt);
        assert!(
            e.message.contains("x.shard") && e.message.contains("delete it"),
            "{e}"
        );
    }
}
