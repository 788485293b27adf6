//! The kernels for GPUs, if there is an nvcc.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kernels::Source;
use crate::made;

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
    let Some(nvcc) = find() else {
        return Vec::new();
    };
    println!("cargo::rustc-env=STEPBACK_CUDA_MAJOR={}", major(&nvcc));
    let targets = targets(&nvcc);
    let jobs: usize = env::var("NUM_JOBS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let mut images = Vec::new();
    for group in sources.chunks(jobs.max(1)) {
        let compiled = std::thread::scope(|scope| {
            let threads: Vec<_> = group
                .iter()
                .map(|source| scope.spawn(|| image(&nvcc, &targets, source, out)))
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap_or_else(|_| std::process::exit(1)))
                .collect::<Vec<_>>()
        });
        images.extend(compiled);
    }
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
        let versions = std::fs::read_dir(python.join("lib")).into_iter().flatten();
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

fn image(nvcc: &Path, targets: &[String], source: &Source, out: &Path) -> (String, PathBuf) {
    let image = out.join(format!("{}.fatbin", source.stem));
    let verbose = env::var("STEPBACK_PTXAS").is_ok_and(|v| v != "0");
    let mut command = Command::new(nvcc);
    command
        .args(["-fatbin", "-std=c++17", "-O3", "-fmad=false", "-Ikernels"])
        .args(targets)
        .args(verbose.then_some("-Xptxas=-v"))
        .arg("-o")
        .args([&image, &source.path]);
    if made::by(&command, &image) {
        return (source.stem.clone(), image);
    }
    let run = command.output();
    let run = run.unwrap_or_else(|e| panic!("cannot run {}: {e}", nvcc.display()));
    let text = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        eprintln!("{}{text}", String::from_utf8_lossy(&run.stdout));
        panic!("nvcc does not compile {}", source.path.display());
    }
    if verbose {
        for line in text.lines().filter(|l| {
            l.contains("Function properties") || l.contains("Used") || l.contains("spill")
        }) {
            println!("cargo::warning={}: {}", source.stem, line.trim());
        }
    }
    made::note(&command, &image);
    (source.stem.clone(), image)
}
