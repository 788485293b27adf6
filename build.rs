//! Packs the reference's numbers into the binary, and compiles the kernels: for the host, against the
//! emulation in `kernels/emulator`, and for GPUs where there is an nvcc.

#[path = "build/commit.rs"]
mod commit;
#[path = "build/goldens.rs"]
mod goldens;
#[path = "build/host.rs"]
mod host;
#[path = "build/kernels.rs"]
mod kernels;
#[path = "build/made.rs"]
mod made;
#[path = "build/nvcc.rs"]
mod nvcc;

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=kernels");
    commit::tell();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    goldens::pack(&out);
    let files = kernels::files(Path::new("kernels"));
    let images = nvcc::compile(&files, &out);
    let emulator = Path::new("kernels/emulator");
    let tests = kernels::files(emulator);
    let emulated = host::compile(files.iter().chain(&tests), emulator, &out);
    kernels::write_launchers(&files, Some(&images), emulated, &out.join("kernels.rs"));
    kernels::write_launchers(&tests, None, emulated, &out.join("kernels_of_tests.rs"));
}
