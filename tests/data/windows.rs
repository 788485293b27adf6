//! Texts in windows: Shakespeare's plays, and what a run names.

use super::{all, corrupt, data_command, gather, offline, put};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use stepback_native::data::{Library, Pair, Request, Vocabulary};
use stepback_native::error::{Kind, Result};
use stepback_native::graph::Sample;
use tempfile::TempDir;

fn windows(library: &Library, seq_len: impl Into<Option<usize>>) -> Result<Pair> {
    library.load(Request {
        name: "shakespeare",
        kwargs: &Map::new(),
        loss_func: "",
        run_id: 0,
        seq_len: seq_len.into(),
    })
}

/// Windows of one character or byte of any file.
fn of_file(dir: &Path, kwargs: &Value) -> Result<Pair> {
    offline(dir).load(Request {
        name: "text",
        kwargs: kwargs.as_object().unwrap(),
        loss_func: "",
        run_id: 0,
        seq_len: Some(1),
    })
}

fn of_text(text: &[u8]) -> TempDir {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "shakespeare/input.txt", text);
    dir
}

#[test]
fn characters_are_numbered_in_order_and_cut_into_windows() {
    // 13 characters, of which 10 are for training.
    let dir = of_text(b"\n !~azAZ09.bc");
    let pair = windows(&offline(dir.path()), 2).unwrap();
    // Place in the sorted set of "\n", " " and what is printed of ASCII.
    let codes = [0, 1, 2, 95, 66, 91, 34, 59, 17, 26, 15, 67, 68].map(|code| code as f32);
    assert_eq!((pair.train.len(), pair.val.len()), (4, 1));
    assert_eq!(
        all(&pair.train),
        (codes[..8].to_vec(), codes[1..9].to_vec())
    );
    assert_eq!(
        all(&pair.val),
        (codes[10..12].to_vec(), codes[11..].to_vec())
    );
    let second = gather(&pair.train, &[1]);
    assert_eq!(second, (codes[2..4].to_vec(), codes[3..5].to_vec()));
    for half in [&pair.train, &pair.val] {
        assert_eq!(half.sample(), Sample::Tokens { length: 2 });
        // The largest code is in the training half.
        assert_eq!(
            (half.target_shape(), half.classes()),
            (&[2][..], Some(1 + 95))
        );
    }
    let vocabulary = pair.vocabulary().unwrap();
    assert_eq!(vocabulary.len(), 96);
    let text = "ROMEO: thou\n~";
    let (codes, skipped) = vocabulary.encode(text);
    assert_eq!((vocabulary.decode(&codes), skipped), (text.into(), 0));
    assert_eq!(codes[..3], [51, 48, 46]);
}

#[test]
fn runs_share_windows_of_one_length() {
    let dir = of_text(&[b'a'; 100]);
    let library = offline(dir.path());
    let [a, b, c] = [3, 3, 4].map(|length| windows(&library, length).unwrap());
    assert!(Arc::ptr_eq(&a.train, &b.train) && Arc::ptr_eq(&a.val, &b.val));
    assert_eq!((a.train.len(), c.train.len()), (79 / 3, 79 / 4));
    assert_eq!(a.checksum(), c.checksum());
    for half in [&a.train, &a.val] {
        half.check().and_then(|()| half.check_all()).unwrap();
    }
}

#[test]
fn what_is_not_in_the_vocabulary_is_left_out_and_told() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    // 20 characters: the halves are cut before anything is left out, two characters in the first, one in the second.
    let dir = of_text("aé\tbcdefghijklmnopü~".as_bytes());
    for _ in 0..2 {
        TOLD.lock().unwrap().clear();
        let library = offline(dir.path());
        let library = library.telling(|text| TOLD.lock().unwrap().push(text.to_owned()));
        let pair = windows(&library, 1).unwrap();
        let (train, val) = (pair.train.tokens().unwrap(), pair.val.tokens().unwrap());
        assert_eq!((train.len(), val.len()), (14, 3));
        assert_eq!((train[0], train[1], val[2]), (66, 67, 95));
        let told = TOLD.lock().unwrap();
        let told_of = |text: &str| told.iter().filter(|told| told.contains(text)).count();
        assert_eq!(
            told_of("shakespeare: left out 3 of the text's characters"),
            1,
            "{told:?}"
        );
        assert_eq!(told_of("not the published ones"), 1);
    }
}

#[test]
fn windows_that_cannot_be_cut_are_refused() {
    let dir = of_text(&[b'a'; 100]);
    let library = offline(dir.path());
    let refused = |seq_len: Option<usize>, what: &str| {
        let e = windows(&library, seq_len).err().expect("an error");
        assert_eq!(e.kind, Kind::Usage);
        assert!(e.message.contains(what), "{what:?} is not in {e}");
    };
    refused(None, "data set shakespeare needs model_kwargs.seq_len");
    refused(
        Some(80),
        "a window of 80 needs 81 tokens, the training half of shakespeare has 80",
    );
    refused(
        Some(20),
        "a window of 20 needs 21 tokens, the validation half of shakespeare has 20",
    );
    assert_eq!(windows(&library, 19).unwrap().val.len(), 1);
    for (text, what) in [
        (&b""[..], "characters for both halves"),
        (b"a", "characters for both halves"),
        ("äöüßé".as_bytes(), "characters for both halves"),
        (b"abc\xff\xfedef", "not UTF-8 from byte 3 on"),
    ] {
        let dir = of_text(text);
        corrupt(windows(&offline(dir.path()), 1), &["input.txt", what]);
    }
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("shakespeare/input.txt")).unwrap();
    let e = windows(&offline(dir.path()), 1).err().unwrap();
    assert_eq!(e.kind, Kind::Io, "{e}");
}

#[test]
fn the_text_is_imported_and_checked() {
    let from = TempDir::new().unwrap();
    put(from.path(), "raw.txt", "To be, or not tö be".as_bytes());
    let dir = TempDir::new().unwrap();
    let data = |words: &[&str]| data_command(dir.path(), words);
    let folder = from.path().to_str().unwrap();
    data(&["import", "shakespeare", "--from", folder]).unwrap();
    assert!(dir.path().join("shakespeare/raw.txt").is_file());
    data(&["check", "shakespeare"]).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_stepback-native"));
    let check = check.args(["data", "check", "shakespeare", "--data-dir"]);
    let output = check.arg(dir.path()).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "shakespeare: ok, 15 and 3 samples, not the published files, 1 of its characters left out\n"
    );
    let pair = windows(&offline(dir.path()), 2).unwrap();
    assert_eq!((pair.train.len(), pair.val.len()), (7, 1));
}

/// Numbers of the published text, from the reference's own reader on PyTorch 2.15.
#[test]
fn the_published_text() {
    let folder = std::env::var_os("STEPBACK_DATA_DIR").map(PathBuf::from);
    let there = |folder: &PathBuf| folder.join("shakespeare/input.txt").is_file();
    let Some(folder) = folder.filter(there) else {
        // Past the test harness, which keeps what a passing test prints to itself.
        let text = "skipped the_published_text: no shakespeare/input.txt in STEPBACK_DATA_DIR";
        writeln!(std::io::stderr(), "{text}").unwrap();
        return;
    };
    let cache = TempDir::new().unwrap();
    let library = offline(&folder).cached_in(Some(cache.path().to_owned()));
    let pair = windows(&library, 256).unwrap();
    assert_eq!(pair.train.published(), Some(true));
    assert_eq!((pair.train.len(), pair.val.len()), (3485, 871));
    assert_eq!(pair.train.classes(), Some(92));
    let (train, val) = (pair.train.tokens().unwrap(), pair.val.tokens().unwrap());
    assert_eq!((train.len(), val.len()), (892_315, 223_079));
    let first = [39, 74, 83, 84, 85, 1, 36, 74, 85, 74, 91, 70, 79, 27, 0, 35];
    assert_eq!(train[..16], first);
    assert_eq!(train[892_311..], [73, 66, 85, 1]);
    assert_eq!(val[..4], [90, 80, 86, 1]);
    let distinct = (0..=255).filter(|code| train.contains(code) || val.contains(code));
    assert_eq!(distinct.count(), 65);
    let weighted = |tokens: &[u8]| -> u64 {
        let terms = tokens.iter().zip(0u64..);
        terms.map(|(token, i)| u64::from(*token) * (i % 1009)).sum()
    };
    assert_eq!(weighted(train), 25_757_965_809);
    assert_eq!(weighted(val), 6_381_915_452);
}

// What a run names.

#[test]
fn characters_of_any_text_are_numbered_in_their_order() {
    let dir = TempDir::new().unwrap();
    // Ten characters of one to four bytes.
    let path = put(dir.path(), "my/songs.txt", "bäb€b😀aaäb".as_bytes());
    let pair = of_file(dir.path(), &json!({"file": "my/songs.txt"})).unwrap();
    let vocabulary = pair.vocabulary().unwrap();
    assert_eq!(vocabulary.characters().unwrap(), "abä€😀");
    let (train, val) = (pair.train.tokens().unwrap(), pair.val.tokens().unwrap());
    assert_eq!((train, val), (&[1, 2, 1, 3, 1, 4, 0, 0][..], &[2, 1][..]));
    assert_eq!(vocabulary.decode(val), "äb".as_bytes());
    assert_eq!(vocabulary.encode("x€"), (vec![3], 1));
    for half in [&pair.train, &pair.val] {
        assert_eq!((half.classes(), half.published()), (Some(5), None));
    }
    assert_eq!(all(&pair.val), (vec![2.0], vec![1.0]));

    // The same by an absolute path; of other characters, in the same order, it is another text.
    let absolute = of_file(Path::new("elsewhere"), &json!({"file": path})).unwrap();
    assert_eq!(absolute.checksum(), pair.checksum());
    put(dir.path(), "b.txt", "bäb€b😁aaäb".as_bytes());
    let other = of_file(dir.path(), &json!({"file": "b.txt"})).unwrap();
    assert_eq!(other.train.tokens(), pair.train.tokens());
    assert_ne!(other.checksum(), pair.checksum());
    put(dir.path(), "c.txt", "bäb€b😀aaaäb".as_bytes());
    let other = of_file(dir.path(), &json!({"file": "c.txt"})).unwrap();
    assert_ne!(other.checksum(), pair.checksum());
}

#[test]
fn bytes_of_any_file_are_their_own_codes() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "x.bin", b"BZh9\xff\xfe\x00abc");
    let kwargs = json!({"file": "x.bin", "tokenizer": "bytes"});
    let pair = of_file(dir.path(), &kwargs).unwrap();
    assert_eq!(pair.train.tokens().unwrap(), b"BZh9\xff\xfe\x00a");
    assert_eq!(pair.val.tokens().unwrap(), b"bc");
    assert_eq!(pair.val.classes(), Some(256));
    let vocabulary = pair.vocabulary().unwrap();
    assert_eq!((vocabulary, vocabulary.len()), (&Vocabulary::Bytes, 256));
    assert_eq!(
        (vocabulary.characters(), vocabulary.decode(b"\xff")),
        (None, vec![255])
    );
}

#[test]
fn files_that_are_no_such_text_are_refused() {
    let dir = TempDir::new().unwrap();
    let refused = |file: &str, kind: Kind, what: &str| {
        let e = of_file(dir.path(), &json!({"file": file})).err();
        let e = e.expect("an error");
        assert_eq!(e.kind, kind, "{e}");
        for part in [file, what] {
            assert!(e.message.contains(part), "{part:?} is not in {e}");
        }
    };
    refused("missing.txt", Kind::Io, "");
    refused("/dev/null", Kind::Io, "regular file");
    fs::create_dir(dir.path().join("folder")).unwrap();
    refused("folder", Kind::Io, "");
    put(dir.path(), "empty.txt", b"");
    refused("empty.txt", Kind::Corrupt, "is empty");
    put(dir.path(), "latin.txt", b"na\xefve");
    refused("latin.txt", Kind::Corrupt, "UTF-8 from byte 2 on");
    refused("latin.txt", Kind::Corrupt, "\"tokenizer\": \"bytes\"");
    let many: String = ('\u{4e00}'..).take(257).collect();
    put(dir.path(), "many.txt", many.as_bytes());
    refused("many.txt", Kind::Usage, "has 257 different characters");
    refused("many.txt", Kind::Usage, "\"tokenizer\": \"bytes\"");
    // 256 are not too many.
    let enough: String = many.chars().skip(1).collect();
    put(dir.path(), "enough.txt", enough.as_bytes());
    let pair = of_file(dir.path(), &json!({"file": "enough.txt"})).unwrap();
    assert_eq!(pair.val.classes(), Some(256));
    put(dir.path(), "short.txt", b"abcdef");
    of_file(dir.path(), &json!({"file": "short.txt"})).unwrap();
    for (text, half) in [("a", "training"), ("abc", "validation")] {
        put(dir.path(), "short.txt", text.as_bytes());
        refused(
            "short.txt",
            Kind::Usage,
            &format!("the {half} half of short.txt has"),
        );
    }
    for words in [["check", "text"], ["fetch", "text"]] {
        let e = data_command(dir.path(), &words).expect_err("an error");
        assert_eq!(e.kind, Kind::Usage);
        assert!(e.message.contains("the file that a run names"), "{e}");
    }
}
