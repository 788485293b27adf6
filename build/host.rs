//! The kernels for the host, if it has a C++ compiler.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::kernels::Source;
use crate::made::{self, Job};

/// Compiles kernels and the emulator, whose folder is given. False where that cannot be done: then there is no emulator.
pub fn compile<'a>(kernels: impl Iterator<Item = &'a Source>, emulator: &Path, out: &Path) -> bool {
    println!("cargo::rustc-check-cfg=cfg(emulator)");
    println!("cargo::rerun-if-env-changed=STEPBACK_EMULATOR");
    let target = env::var("TARGET").unwrap_or_default();
    let wanted = env::var("STEPBACK_EMULATOR").map_or(true, |v| v != "0");
    if !wanted || !target.starts_with("x86_64") || !target.contains("linux") {
        return false;
    }
    let build = build();
    let compiler = build.try_get_compiler();
    let runs = compiler.is_ok_and(|c| {
        let mut command = c.to_command();
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    });
    if !runs {
        println!("cargo::warning=no C++ compiler: the binary will not have --device emulator");
        return false;
    }
    let mut checked = build.clone();
    // Kernels alone are checked: an index that a compiler can see to be wrong, a misaligned vector.
    checked
        .flag("-fsanitize=bounds,alignment")
        .flag("-fno-sanitize-recover=all")
        .flag("-xc++");
    let job = |build: &cc::Build, source: &Path| {
        let mut command = build.get_compiler().to_command();
        command.arg("-c");
        let name = source.file_name().expect("a file");
        Job {
            command,
            source: source.to_owned(),
            made: out.join(name).with_added_extension("o"),
        }
    };
    let runtime = ["memory.cpp", "runtime.cpp"].map(|name| emulator.join(name));
    let jobs: Vec<Job> = runtime
        .iter()
        .map(|source| job(&build, source))
        .chain(kernels.map(|kernel| job(&checked, &kernel.path)))
        .collect();
    if made::of_use() {
        let objects: Vec<PathBuf> = jobs.iter().map(|job| job.made.clone()).collect();
        made::all(jobs);
        cc::emit_link_directives(&build, build.create_archive("emulator", objects));
    }
    println!("cargo::rustc-cfg=emulator");
    // For the test that makes the emulator a driver.
    let compiler = build.get_compiler();
    println!(
        "cargo::rustc-env=STEPBACK_CXX={}",
        compiler.path().display()
    );
    true
}

fn build() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .cpp_link_stdlib(None)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .warnings(true)
        .include("kernels")
        .include("kernels/emulator");
    for flag in [
        "-march=x86-64-v3",
        "-fno-exceptions",
        "-fno-rtti",
        "-fno-threadsafe-statics",
        // Only what is written as fmaf is fused, as nvcc does it with -fmad=false.
        "-ffp-contract=off",
        // Kernels read floats as vectors.
        "-fno-strict-aliasing",
        // A large local array must meet the guard page of its stack.
        "-fstack-clash-protection",
        // Without it every threadIdx is a function call.
        "-ftls-model=initial-exec",
        "-Wno-unknown-pragmas",
        "-Wno-unused-parameter",
    ] {
        build.flag_if_supported(flag);
    }
    build
}
