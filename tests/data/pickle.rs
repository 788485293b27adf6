//! The pickle reader: what Python wrote, and what an attacker would.

use super::put;
use proptest::prelude::*;
use std::time::{Duration, Instant};
use stepback_native::data::pickle::Pickle;

/// One dictionary as CPython 3 with numpy 2.4 writes it in each protocol:
///
///     labels = [3, 300, -2, 70000, 2**40, True]
///     {"data": numpy.arange(8, dtype="u1").reshape(2, 4) * 31, "labels": labels, "filenames": ["a.png", "é€"],
///      b"batch_label": b"x\xff\n", "fortran": numpy.asfortranarray(numpy.arange(6, dtype="u1").reshape(2, 3)),
///      "wide": numpy.array([5, -7], dtype=">i8"), "none": None, "mean": numpy.array([0.5]), "pair": (1, 2),
///      "again": labels}
pub const PYTHON3: [&[u8]; 6] = [
    include_bytes!("pickles/protocol0.pkl"),
    include_bytes!("pickles/protocol1.pkl"),
    include_bytes!("pickles/protocol2.pkl"),
    include_bytes!("pickles/protocol3.pkl"),
    include_bytes!("pickles/protocol4.pkl"),
    include_bytes!("pickles/protocol5.pkl"),
];

#[test]
fn what_python_wrote_is_read() {
    for (protocol, bytes) in PYTHON3.into_iter().enumerate() {
        let pickle = Pickle::parse(bytes).unwrap_or_else(|e| panic!("protocol {protocol}: {e}"));
        let array = |key: &str| pickle.get(key).unwrap().array().unwrap();
        let data = array("data");
        assert_eq!((data.shape, data.dtype), (&[2, 4][..], &b"u1"[..]));
        assert_eq!(data.bytes, [0, 31, 62, 93, 124, 155, 186, 217]);
        assert!(!data.fortran);
        let columns = array("fortran");
        assert_eq!((columns.shape, columns.fortran), (&[2, 3][..], true));
        assert_eq!(columns.bytes, [0, 3, 1, 4, 2, 5]);
        let mean = array("mean");
        assert_eq!(
            (mean.dtype, mean.bytes),
            (&b"f8"[..], &0.5f64.to_le_bytes()[..])
        );
        let integers = |key: &str| pickle.get(key).unwrap().integers();
        let labels = vec![3, 300, -2, 70000, 1 << 40, 1];
        assert_eq!(integers("labels"), Some(labels.clone()));
        assert_eq!(integers("again"), Some(labels));
        assert_eq!(integers("wide"), Some(vec![5, -7]));
        assert_eq!(integers("pair"), Some(vec![1, 2]));
        assert_eq!(integers("filenames"), None);
        assert_eq!(integers("none"), None);
        assert!(pickle.get("batch_label").is_some() && pickle.get("nothing").is_none());
    }
}

/// Bytes as Python 2 writes a string: a literal (protocol 0), or with its length in front.
fn python2_string(protocol: u8, content: &[u8]) -> Vec<u8> {
    match (protocol, content.len()) {
        (0, _) => {
            let mut out = b"S'".to_vec();
            for byte in content {
                match byte {
                    b'\\' | b'\'' => out.extend([b'\\', *byte]),
                    b'\n' => out.extend(b"\\n"),
                    b'\r' => out.extend(b"\\r"),
                    b'\t' => out.extend(b"\\t"),
                    b' '..=b'~' => out.push(*byte),
                    _ => out.extend(format!("\\x{byte:02x}").bytes()),
                }
            }
            out.extend(b"'\n");
            out
        }
        (_, 0..256) => [&[b'U', content.len() as u8], content].concat(),
        (_, n) => [b"T", &(n as u32).to_le_bytes()[..], content].concat(),
    }
}

fn python2_integer(protocol: u8, value: i64) -> Vec<u8> {
    match (protocol, value) {
        (0, _) => format!("I{value}\n").into_bytes(),
        (_, 0..256) => vec![b'K', value as u8],
        (_, 256..65536) => [b"M", &(value as u16).to_le_bytes()[..]].concat(),
        _ => [b"J", &(value as i32).to_le_bytes()[..]].concat(),
    }
}

/// A batch as Python 2 with its numpy wrote the published ones: a dictionary of `data` (bytes of this shape) and
/// a list of labels, in protocol 0, 1 or 2.
pub fn python2_batch(
    protocol: u8,
    key: &str,
    labels: &[i64],
    shape: &[usize],
    data: &[u8],
) -> Vec<u8> {
    let string = |content: &str| python2_string(protocol, content.as_bytes());
    let integer = |value: i64| python2_integer(protocol, value);
    let mut out = match protocol {
        2 => b"\x80\x02".to_vec(),
        _ => Vec::new(),
    };
    out.extend(b"(d".iter().chain(if protocol == 0 {
        b"p1\n"
    } else {
        b"q\x01" as &[u8]
    }));
    out.extend(string("batch_label"));
    out.extend(string("training batch 1 of 5"));
    out.push(b's');
    out.extend(string(key));
    out.extend(b"(l");
    for label in labels {
        out.extend(integer(*label));
        out.push(b'a');
    }
    out.push(b's');
    out.extend(string("data"));
    out.extend(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(");
    out.extend(integer(0));
    out.push(b't');
    out.extend(string("b"));
    out.extend(b"tR(");
    out.extend(integer(1));
    out.push(b'(');
    shape.iter().for_each(|n| out.extend(integer(*n as i64)));
    out.extend(b"tcnumpy\ndtype\n(");
    out.extend(string("u1"));
    out.extend([integer(0), integer(1)].concat());
    out.extend(b"tR(");
    out.extend(integer(3));
    out.extend(string("|"));
    out.extend(b"NNN");
    out.extend([integer(-1), integer(-1), integer(0)].concat());
    out.extend(b"tb");
    out.extend(if protocol == 2 {
        b"\x89" as &[u8]
    } else {
        b"I00\n"
    });
    out.extend(python2_string(protocol, data));
    out.extend(b"tbs.");
    out
}

#[test]
fn what_python2_wrote_is_read() {
    let data: Vec<u8> = (0..=255).cycle().take(600).collect();
    for protocol in 0..=2 {
        let bytes = python2_batch(protocol, "labels", &[7, 300, -1], &[2, 300], &data);
        let pickle = Pickle::parse(&bytes).unwrap_or_else(|e| panic!("protocol {protocol}: {e}"));
        assert_eq!(pickle.get("data").unwrap().array().unwrap().bytes, data);
        let labels = pickle.get("labels").unwrap().integers();
        assert_eq!(labels, Some(vec![7, 300, -1]));
    }
}

/// Bytes as Python 3 writes them in protocol 0: as text, most of which is a byte in the file and two in UTF-8.
#[test]
fn bytes_of_protocol_0_may_be_the_whole_file() {
    let content: Vec<u8> = (0..5000u32).map(|i| 128 + (i * 37 % 128) as u8).collect();
    let array = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR(I1\n(I5000\ntcnumpy\ndtype\n(Vu1\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntbI00\n";
    let pickle = [
        b"(dVdata\n",
        &array[..],
        b"c_codecs\nencode\n(V",
        &content,
        b"\nVlatin1\ntRtbs.",
    ];
    let pickle = pickle.concat();
    let pickle = Pickle::parse(&pickle).unwrap();
    assert_eq!(pickle.get("data").unwrap().array().unwrap().bytes, content);
}

#[test]
fn numbers_of_numpy_are_integers() {
    // {"labels": [numpy.int64(7), numpy.uint8(200), numpy.int16(-2), 5], "mean": [numpy.float32(1)]} in protocol 2 of
    // Python 2, spelled by hand.
    let scalar = |kind: &str, bytes: &[u8]| {
        let length = [bytes.len() as u8];
        let head = format!(
            "cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02{kind}K\x00K\x01tR(K\x03U\x01<NNNJ"
        );
        let rest = b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU";
        [head.as_bytes(), rest, &length, bytes, b"tR"].concat()
    };
    let pickle = [
        b"\x80\x02}(U\x06labels(".to_vec(),
        scalar("i8", &7i64.to_le_bytes()),
        scalar("u1", &[200]),
        scalar("i2", &(-2i16).to_le_bytes()),
        b"K\x05lU\x04mean(".to_vec(),
        scalar("f4", &1f32.to_le_bytes()),
        b"lu.".to_vec(),
    ];
    let pickle = pickle.concat();
    let pickle = Pickle::parse(&pickle).unwrap();
    let integers = |key: &str| pickle.get(key).unwrap().integers();
    assert_eq!(integers("labels"), Some(vec![7, 200, -2, 5]));
    assert_eq!(integers("mean"), None);
}

fn refused(bytes: &[u8]) -> String {
    let begin = Instant::now();
    let error = Pickle::parse(bytes).map(|_| ()).expect_err("refused");
    assert!(begin.elapsed() < Duration::from_secs(60), "{error}");
    error
}

#[test]
fn what_would_be_a_call_is_refused_by_its_name() {
    let cases: [(&[u8], &str); 8] = [
        (b"cos\nsystem\n(S'echo'\ntR.", "os.system"),
        (b"\x80\x02cposix\nsystem\nU\x04echo\x85R.", "posix.system"),
        (
            b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
            "builtins.eval",
        ),
        (b"(S'echo'\nios\nsystem\n.", "os.system"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (
            b"cnumpy.core.multiarray\nfromstring\n.",
            "numpy.core.multiarray.fromstring",
        ),
        (b"c_codecs\ndecode\n.", "_codecs.decode"),
        (b"c\x1b[2J\nx\\\xff\n.", "\\x1b[2J.x\\\\\\xff"),
    ];
    for (bytes, name) in cases {
        let error = refused(bytes);
        assert!(error.contains(name), "{name} is not in {error}");
        assert!(error.contains("nothing was run"), "{error}");
    }
    // Objects, persistent names and extensions have operations of their own.
    for bytes in [
        &b"(cnumpy\nndarray\no."[..],
        b"Pname\n.",
        b"N)\x81.",
        b"\x82\x01.",
        b"N\x97.",
    ] {
        let error = refused(bytes);
        assert!(error.contains("operation"), "{error}");
    }
    // Known globals do nothing but what is known of them.
    for bytes in [
        &b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR."[..],
        b"cnumpy\nndarray\n)R.",
        b"cnumpy\ndtype\n)R.",
        b"cnumpy.core.multiarray\nscalar\n)R.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\ntRS'1234567'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\ntR(I1\n(I1\ntcnumpy\ndtype\n(S'O'\ntRI00\nS'12345678'\ntb.",
        b"N)R.",
        b"]N\x85b.",
    ] {
        refused(bytes);
    }
}

fn repeat(prefix: &[u8], part: &[u8], n: usize, suffix: &[u8]) -> Vec<u8> {
    [prefix, &part.repeat(n), suffix].concat()
}

#[test]
fn hostile_pickles_end_quickly() {
    const MANY: usize = 2_000_000;
    // Nested as deep as can be, which is no harm: read in a loop, and dropped in one.
    let nested = repeat(b"", b"(", MANY, &repeat(b"N", b"t", MANY, b"."));
    assert!(refused(&repeat(b"", b"]", 5_000_000, b".")).contains("operations"));
    assert!(Pickle::parse(&nested[..nested.len() - 1]).is_err());
    assert!(Pickle::parse(&nested).is_ok());
    // A value used many times is one value.
    let shared = repeat(b"]q\x00", b"h\x00h\x00\x86q\x00", 1_000_000, b".");
    assert!(Pickle::parse(&shared).is_ok());
    // A list in itself.
    assert!(Pickle::parse(b"]q\x00h\x00a.").unwrap().get("x").is_none());
    // Lengths beyond the file, negative ones, and sums that wrap.
    for length in [u64::MAX, 1 << 62, u64::MAX - 8, 4] {
        for code in [0x8du8, 0x8e, 0x96] {
            let bytes = [&[code], &length.to_le_bytes()[..], b"."].concat();
            assert!(refused(&bytes).contains("cut short"));
        }
    }
    refused(b"T\xff\xff\xff\xffabc.");
    refused(b"\x8b\xff\xff\xff\xff.");
    refused(b"\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01.");
    // The same text encoded again and again; the same tuple of many as arguments.
    let text = [b"X\x00\x00\x10\x00".to_vec(), vec![b'a'; 1 << 20]].concat();
    let prefix = [
        b"c_codecs\nencode\n(".to_vec(),
        text,
        b"X\x06\x00\x00\x00latin1tq\x01(c_codecs\nencode\nq\x00".to_vec(),
    ];
    refused(&repeat(&prefix.concat(), b"h\x00h\x01R", 100_000, b"."));
    let arguments = repeat(b"(", b"N", MANY, b"tq\x01cnumpy\ndtype\nq\x00");
    refused(&repeat(&arguments, b"h\x00h\x01R", 100_000, b"."));
    // Shapes that are no shapes, or not those of the bytes.
    for shape in [
        "I-1\n",
        "I4\nI4611686018427387904\nI8\n",
        "N",
        "I3\n",
        "I1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\nI4\n",
    ] {
        let array = format!(
            "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\ntR(I1\n({shape}tcnumpy\ndtype\n(S'u1'\ntRI00\nS'abcd'\ntb."
        );
        refused(array.as_bytes());
    }
    // What is under a mark, or not there at all, is not taken.
    for bytes in [
        &b"N(0."[..],
        b"N(\x85.",
        b"0.",
        b".",
        b"",
        b"a.",
        b"NNa.",
        b"(e.",
        b"}(Nu.",
        b"2.",
        b"h\x00.",
        b"t.",
    ] {
        refused(bytes);
    }
    for bytes in [
        &b"S'a\n."[..],
        b"S'\\q'\n.",
        b"S'\\x1'\n.",
        b"V\\u12\n.",
        b"V\\ud800\n.",
        b"Ione\n.",
        b"I\n.",
        b"p-1\n.",
        b"Np4294967296\n.",
        b"\x80\x06N.",
    ] {
        refused(bytes);
    }
}

#[test]
fn every_beginning_of_a_pickle_is_refused() {
    for bytes in PYTHON3 {
        (0..bytes.len()).for_each(|n| {
            refused(&bytes[..n]);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any bytes are read or refused.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Pickle::parse(&bytes).map(|pickle| visit(&pickle));
    }

    /// So is what is nearly a pickle.
    #[test]
    fn changed_bytes(
        protocol in 0usize..6,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = PYTHON3[protocol].to_vec();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let _ = Pickle::parse(&bytes).map(|pickle| visit(&pickle));
    }
}

fn visit(pickle: &Pickle) {
    for key in [
        "data", "labels", "fortran", "wide", "mean", "pair", "again", "none",
    ] {
        if let Some(item) = pickle.get(key) {
            let _ = (item.array(), item.integers());
        }
    }
}

#[test]
fn a_pickle_that_calls_is_named_with_its_file() {
    let dir = tempfile::TempDir::new().unwrap();
    let marker = dir.path().join("ran");
    let call = format!("cos\nsystem\n(S'touch {}'\ntR.", marker.display());
    for name in ["train", "test"] {
        put(
            dir.path(),
            &format!("cifar-100-python/{name}"),
            call.as_bytes(),
        );
    }
    let library = super::offline(dir.path());
    let loaded = super::load(
        &library,
        "cifar100",
        serde_json::json!({}),
        "cross_entropy",
        0,
    );
    super::corrupt(
        loaded,
        &["cifar-100-python/train", "os.system", "nothing was run"],
    );
    assert!(!marker.exists());
}
