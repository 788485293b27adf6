//! `records/goldens/*.json` and the published outputs that `verify` compares, compressed.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Folders of JSON files, and what their names begin with in the binary.
const FOLDERS: [(&str, &str); 3] = [
    ("records/goldens", ""),
    ("records/goldens/ensemble", "ensemble/"),
    ("records/reference/outputs", ""),
];

pub fn pack(out: &Path) {
    let mut table = String::from("pub static FILES: &[(&str, &[u8])] = &[\n");
    for (folder, prefix) in FOLDERS {
        println!("cargo::rerun-if-changed={folder}");
        for path in json_files(Path::new(folder)) {
            let name = format!(
                "{prefix}{}",
                path.file_name().expect("a file").to_string_lossy()
            );
            let packed = out.join(format!("{}.gz", name.replace('/', "-")));
            let file = File::create(&packed).expect("OUT_DIR is writable");
            let mut encoder = GzEncoder::new(file, Compression::best());
            let mut source = File::open(&path).expect("a readable golden file");
            std::io::copy(&mut source, &mut encoder).expect("a readable golden file");
            encoder.finish().expect("OUT_DIR is writable");
            writeln!(table, "    ({name:?}, include_bytes!({packed:?})),").expect("a string grows");
        }
    }
    table.push_str("];\n");
    fs::write(out.join("goldens.rs"), table).expect("OUT_DIR is writable");
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the goldens' folder");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    paths.sort();
    paths
}
