//! The kernels for the host, if it has a C++ compiler.

use std::env;
use std::path::Path;
use std::process::Stdio;

use crate::kernels::Source;
use crate::made;

/// Compiles kernels and emulator. False where that cannot be done: then there is no emulator.
pub fn compile(kernels: &[Source], tests: &[Source]) -> bool {
    println!("cargo::rustc-check-cfg=cfg(emulator)");
    println!("cargo::rerun-if-env-changed=STEPBACK_EMULATOR");
    let target = env::var("TARGET").unwrap_or_default();
    let wanted = env::var("STEPBACK_EMULATOR").map_or(true, |v| v != "0");
    if !wanted || !target.starts_with("x86_64") || !target.contains("linux") {
        return false;
    }
    let compiler = build().try_get_compiler();
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
    let mut runtime = build();
    runtime.files([
        "kernels/emulator/runtime.cpp",
        "kernels/emulator/memory.cpp",
    ]);
    compile_library(&runtime, "emulator_runtime");
    // Kernels alone are checked: an index that a compiler can see to be wrong, a misaligned vector.
    let mut checked = build();
    checked
        .flag("-fsanitize=bounds,alignment")
        .flag("-fno-sanitize-recover=all")
        .flag("-xc++")
        .files(kernels.iter().chain(tests).map(|s| &s.path));
    compile_library(&checked, "emulated_kernels");
    println!("cargo::rustc-cfg=emulator");
    true
}

fn compile_library(build: &cc::Build, name: &str) {
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let library = Path::new(&out).join(format!("lib{name}.a"));
    let compiler = build.get_compiler().to_command();
    if made::by(&compiler, &library) {
        println!("cargo::rustc-link-lib=static={name}");
        println!("cargo::rustc-link-search=native={out}");
    } else {
        build.compile(name);
        made::note(&compiler, &library);
    }
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
