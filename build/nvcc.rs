//! The kernels for GPUs, if there is an nvcc.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kernels::Source;
use crate::made::{self, Job};

/// Machine code for these (`sm_80` also serves 8.6 and 8.9), and PTX of the last for newer GPUs.
const ARCHITECTURES: [&str; 3] = ["80", "90a", "100"];

/// An image for each file with its name; none without nvcc.
pub fn compile(sources: &[Source], out: &Path) -> Vec<(String, PathBuf)> {
    for variable in [
        "NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-env-changed=STEPBACK_CUDA_ARCHS");
    println!("cargo::rerun-if-env-changed=STEPBACK_PTXAS");
    let Some(nvcc) = find().filter(|_| made::of_use()) else {
        return Vec::new();
    };
    println!("cargo::rustc-env=STEPBACK_CUDA_MAJOR={}", major(&nvcc));
    let targets = targets(&nvcc);
    let verbose = env::var("STEPBACK_PTXAS").is_ok_and(|v| v != "0");
    let job = |source: &Source| {
        let mut command = Command::new(&nvcc);
        command
            .args(["-fatbin", "-std=c++17", "-O3", "-fmad=false", "-Ikernels"])
            .args(&targets)
            .args(verbose.then_some("-Xptxas=-v"));
        let begun = out.join(&source.stem).with_added_extension("cu");
        fs::write(&begun, source.begun()).expect("OUT_DIR is writable");
        Job {
            command,
            source: begun,
            made: out.join(&source.stem).with_added_extension("fatbin"),
        }
    };
    let jobs: Vec<Job> = sources.iter().map(job).collect();
    let stems = sources.iter().map(|source| source.stem.clone());
    let images = stems.zip(jobs.iter().map(|job| job.made.clone())).collect();
    made::all(jobs);
    images
}

fn find() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).map(PathBuf::from);
    if let Some(nvcc) = variable("NVCC") {
        assert!(nvcc.is_file(), "NVCC: there is no file {}", nvcc.display());
        return Some(nvcc);
    }
    let homes = [variable("CUDA_HOME"), variable("CUDA_PATH")];
    let homes = homes.into_iter().flatten().map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    // Where pip puts NVIDIA's packages.
    let pythons = [variable("VIRTUAL_ENV"), variable("CONDA_PREFIX")];
    let packages = pythons.into_iter().flatten().flat_map(|python| {
        let versions = fs::read_dir(python.join("lib")).into_iter().flatten();
        versions
            .flatten()
            .map(|v| v.path().join("site-packages/nvidia/cu13/bin"))
            .collect::<Vec<_>>()
    });
    homes
        .chain(env::split_paths(&path))
        .chain(packages)
        .map(|folder| folder.join("nvcc"))
        .find(|nvcc| nvcc.is_file())
}

/// The first number of the toolkit's version; drivers that know no such CUDA cannot load what it makes.
fn major(nvcc: &Path) -> u32 {
    let said = Command::new(nvcc).arg("--version").output();
    let said = said.unwrap_or_else(|e| panic!("cannot run {}: {e}", nvcc.display()));
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = text.split_once("release ").map(|(_, version)| version);
    let major = version.and_then(|v| v.split('.').next()?.parse().ok());
    major.unwrap_or_else(|| panic!("{} --version names no release: {text}", nvcc.display()))
}

/// Arguments that name the architectures.
fn targets(nvcc: &Path) -> Vec<String> {
    let machine = |arch: &str| format!("-gencode=arch=compute_{arch},code=sm_{arch}");
    if let Ok(chosen) = env::var("STEPBACK_CUDA_ARCHS") {
        return chosen
            .split([',', ' '])
            .filter(|a| !a.is_empty())
            .map(machine)
            .collect();
    }
    let known = Command::new(nvcc).arg("--list-gpu-code").output();
    let known = known.unwrap_or_else(|e| panic!("cannot run {}: {e}", nvcc.display()));
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    let known = |arch: &&str| known.lines().any(|line| line == format!("sm_{arch}"));
    let archs: Vec<&str> = ARCHITECTURES.into_iter().filter(known).collect();
    let last = archs.last().expect("an nvcc that knows sm_80");
    let ptx = last.trim_end_matches('a');
    let ptx = format!("-gencode=arch=compute_{ptx},code=compute_{ptx}");
    archs.iter().map(|a| machine(a)).chain([ptx]).collect()
}
