//! The program on GPUs whose driver is a stub, `libcuda.cpp`, which runs kernels on the emulator: `src/device/cuda.rs` as it
//! is, and the machine code that it loads. Without an emulator or kernels for GPUs there is none.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use stepback_native::device::gpu::kernels::{IMAGES, KERNELS};

use crate::common::cifar::write_cifar;
use crate::common::program::{Folder, Ran, without_times};
use crate::common::skip::skip;
use crate::runs::write_digits;

/// The folder with the stub, which is compiled once.
fn stub() -> Option<&'static Path> {
    static STUB: OnceLock<Option<PathBuf>> = OnceLock::new();
    let stub = STUB.get_or_init(|| {
        let Some(compiler) = option_env!("STEPBACK_CXX") else {
            skip("on a driver", "this build has no emulator");
            return None;
        };
        if IMAGES.is_empty() {
            skip("on a driver", "this build found no nvcc");
            return None;
        }
        Some(compile(compiler))
    });
    stub.as_deref()
}

/// By the compiler of the emulator, whose objects become part of it.
fn compile(compiler: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver");
    std::fs::create_dir_all(&folder).unwrap();
    let emulator = built("libemulator.a");
    let emulator = emulator.to_str().unwrap();
    // Under its own name at last: another process may run it.
    let made = folder.join(format!("made-by-{}", std::process::id()));
    let linked = ["-Wl,-Bsymbolic", "-Wl,--whole-archive", emulator];
    let libraries = ["-Wl,--no-whole-archive", "-ldl", "-lpthread", "-lrt"];
    let options = [&["-shared", "-fPIC"], &linked[..], &libraries].concat();
    cpp(compiler, "libcuda.cpp", &made, &options);
    std::fs::rename(made, folder.join("libcuda.so.1")).unwrap();
    folder
}

/// What the build script made.
fn built(name: &str) -> PathBuf {
    Path::new(env!("OUT_DIR")).join(name)
}

/// Compiles a file of this folder.
fn cpp(compiler: &str, source: &str, made: &Path, options: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ran = Command::new(compiler)
        .current_dir(root)
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"])
        .args(["-Ikernels", "-Ikernels/emulator", "-o"])
        .arg(made)
        .arg(root.join("tests/cli/driver").join(source))
        .args(options)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
}

/// A folder with configs, data and that driver.
struct Gpu {
    folder: Folder,
    stub: &'static Path,
}

/// What the stub saw: calls of each of its functions, and what else it says of a process.
struct Seen {
    counts: HashMap<String, usize>,
    left: Vec<String>,
    broken: Option<String>,
}

impl Gpu {
    fn new() -> Option<Gpu> {
        let folder = Folder::new();
        folder.config("mlp", &mlp());
        folder.config("resnet", &resnet());
        folder.config("digits", &digits());
        write_digits(&folder, "train", 24);
        write_digits(&folder, "t10k", 3);
        write_cifar(&folder.path("data"), 5, 1);
        stub().map(|stub| Gpu { folder, stub })
    }

    fn run(&self, arguments: &str, settings: &[(&str, &str)]) -> (Ran, Seen) {
        let report = self.folder.path("report");
        let _ = std::fs::remove_file(&report);
        let mut command = self.folder.command(arguments);
        command.env("LD_LIBRARY_PATH", self.stub);
        command.env("STUB_CUDA_REPORT", &report);
        command.envs(settings.iter().copied());
        let ran = Ran::from(command.output().unwrap());
        let mut seen = Seen {
            counts: HashMap::new(),
            left: Vec::new(),
            broken: None,
        };
        for line in std::fs::read_to_string(report).unwrap_or_default().lines() {
            let (name, rest) = line.split_once(' ').unwrap();
            match name {
                "left:" => seen.left.push(rest.to_owned()),
                "broken:" => seen.broken = Some(rest.to_owned()),
                _ => drop(seen.counts.insert(name.to_owned(), rest.parse().unwrap())),
            }
        }
        (ran, seen)
    }

    /// What training with these arguments leaves, without times.
    fn trained(&self, arguments: &str, settings: &[(&str, &str)]) -> (String, Seen) {
        let train = format!("train -q --offline --overwrite {arguments}");
        let (ran, seen) = self.run(&train, settings);
        assert_eq!(ran.code(0).stderr, "");
        let name = arguments.split('.').next().unwrap();
        let output = self.folder.read(&format!("output/{name}.json"));
        (without_device(&without_times(&output)), seen)
    }
}

fn without_device(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains("\"device\""));
    lines.collect::<Vec<_>>().join("\n")
}

/// Methods with kernels of their own, one that waits for the host, dropout, and a last batch that is smaller.
fn mlp() -> Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 50}, "model": "mlp",
        "model_kwargs": {"output_size": 1, "hidden_sizes": [30], "dropout": true}, "loss_func": "squared",
        "score_func": "squared", "opt": [{"name": "adam", "lr": 0.01}, {"name": "soap", "lr": 0.01, "precondition_frequency": 4}],
        "batch_size": 8, "max_epoch": 3, "n_runs": 1,
    })
}

fn resnet() -> Value {
    json!({
        "dataset": "cifar10", "model": "resnet20", "loss_func": "cross_entropy", "score_func": "cross_entropy_accuracy",
        "opt": [{"name": "sgd-m", "lr": 0.01}], "batch_size": 5, "max_epoch": 1, "n_runs": 1,
    })
}

/// A network whose step is one launch, which gathers the batch as well, and the update.
fn digits() -> Value {
    json!({
        "dataset": "mnist", "dataset_kwargs": {"as_image": false}, "model": "mlp",
        "model_kwargs": {"output_size": 10, "hidden_sizes": [12]},
        "loss_func": "cross_entropy", "score_func": "cross_entropy_accuracy", "opt": [{"name": "adam", "lr": 0.01}],
        "batch_size": 8, "max_epoch": 2, "n_runs": 1,
    })
}

/// The stub is no better than what it refuses.
#[test]
fn what_the_driver_refuses_the_stub_refuses() {
    let (Some(stub), Some(compiler)) = (stub(), option_env!("STEPBACK_CXX")) else {
        return;
    };
    let folder = Folder::new();
    let client = folder.path("refusals");
    let driver = stub.join("libcuda.so.1");
    cpp(
        compiler,
        "refusals.cpp",
        &client,
        &[driver.to_str().unwrap()],
    );
    for freed in ["0", "1"] {
        let ran = Command::new(&client)
            .arg(built("relu.fatbin"))
            .arg(freed)
            .env("LD_LIBRARY_PATH", stub)
            .output();
        let ran = Ran::from(ran.unwrap());
        assert_eq!((ran.code, &*ran.stdout), (Some(0), ""), "{}", ran.stderr);
        // Every refusal but those that name no mistake is explained.
        assert!(ran.stderr.lines().count() > 20, "{}", ran.stderr);
    }
}

#[test]
fn training_is_the_emulators_bit_for_bit() {
    let Some(gpu) = Gpu::new() else { return };
    for name in ["mlp", "resnet", "digits"] {
        let (expected, _) = gpu.trained(&format!("{name}.json --device emulator"), &[]);
        let on_gpu = format!("{name}.json --device cuda");
        let (ours, seen) = gpu.trained(&on_gpu, &[]);
        assert_eq!(ours, expected);
        assert!(seen.left.is_empty(), "left: {:?}", seen.left);
        let of_a_graph = seen.counts["launches"] / seen.counts["cuGraphLaunch"];
        assert!(of_a_graph > if name == "digits" { 1 } else { 10 });
        if name == "digits" {
            // Uploads are not waited for.
            let [uploads, waits] = ["cuMemcpyHtoDAsync_v2", "cuStreamSynchronize"];
            assert!(seen.counts[waits] < seen.counts[uploads] / 2);
        }
        if name != "resnet" {
            let (ours, alone) = gpu.trained(&on_gpu, &[("STEPBACK_NO_GRAPH", "1")]);
            assert_eq!(ours, expected);
            assert!(!alone.counts.contains_key("cuGraphLaunch"));
            assert_eq!(alone.counts["launches"], seen.counts["launches"]);
            // Programmatic dependent launch.
            let edges = |seen: &Seen| seen.counts.contains_key("cuGraphAddDependencies_v2");
            let (ours, early) = gpu.trained(&on_gpu, &[("STEPBACK_PDL", "1")]);
            assert_eq!(ours, expected);
            assert!(edges(&early) && !edges(&seen));
            let (ours, chain) = gpu.trained(&on_gpu, &[("STEPBACK_CHAIN", "1")]);
            assert_eq!(ours, expected);
            let [nodes, graphs] = ["cuGraphAddKernelNode_v2", "cuGraphCreate"];
            let in_chains = chain.counts[nodes] - chain.counts[graphs];
            assert_eq!(chain.counts["edges"], in_chains);
            assert_ne!(seen.counts["edges"], in_chains);
            for settings in [&[][..], &[("STEPBACK_NO_GRAPH", "1")]] {
                let (ours, seen) = gpu.trained(&format!("{on_gpu} --jobs 2"), settings);
                assert_eq!(ours, expected);
                assert!(seen.left.is_empty(), "left: {:?}", seen.left);
                assert_eq!(alone.counts["launches"], seen.counts["launches"]);
            }
            let two = format!("{on_gpu}:0,cuda:1");
            let (ours, seen) = gpu.trained(&two, &[("STUB_CUDA_DEVICES", "2")]);
            assert_eq!(ours, expected);
            assert!(seen.left.is_empty(), "left: {:?}", seen.left);
        }
    }
}

#[test]
fn verify_and_bench_kernels_run() {
    let Some(gpu) = Gpu::new() else { return };
    let (ran, _) = gpu.run("verify --suite step-logs --device cuda", &[]);
    let ran = ran.code(0);
    assert_eq!(ran.stderr, "");
    let (ran, _) = gpu.run(
        "bench-kernels --device cuda --small --filter relu --json",
        &[],
    );
    let ran = ran.code(0);
    assert_eq!(ran.stderr, "");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["gpu"], "Stub 0");
    let lines = report["rows"].as_array().unwrap();
    assert!(lines.iter().any(|line| line["name"] == "relu"));
    let peaks = report["peaks"].as_array().unwrap();
    // The time behind a copy is a difference: here of two that mean nothing.
    let times = lines.iter().map(|line| (line, "hot_seconds"));
    for (line, time) in times.chain(peaks.iter().map(|line| (line, "seconds"))) {
        assert!(line["error"].as_f64().unwrap() < 1e-6, "{line}");
        assert!(line[time].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["seconds"].is_number(), "{line}");
    }
}

#[test]
fn drivers_and_gpus_that_cannot_be_used_are_named() {
    let Some(gpu) = Gpu::new() else { return };
    let devices = |settings: &[(&str, &str)]| gpu.run("devices", settings).0.code(0).stdout;
    let two = devices(&[("STUB_CUDA_DEVICES", "2")]);
    assert!(two.contains("cuda:0") && two.contains("Stub 1"), "{two}");
    for (name, value, why) in [
        ("STUB_CUDA_DEVICES", "0", "the NVIDIA driver has no GPU"),
        (
            "STUB_CUDA_VERSION",
            "12040",
            "the NVIDIA driver knows CUDA 12.4 at most, and this binary needs",
        ),
        ("STUB_CUDA_CAPABILITY", "75", "compute capability 7.5"),
    ] {
        let (ran, _) = gpu.run("train mlp.json --device cuda", &[(name, value)]);
        ran.code(2).says(&["--device cuda", why]);
        assert!(!gpu.folder.exists("output/mlp.json"));
    }
    // Its compiler is a library of its own, which is needed for methods that are files.
    let mut config = mlp();
    config["opt"] = json!({"name": "adagrad", "lr": 0.01});
    gpu.folder.config("file", &config);
    let (ran, _) = gpu.run("train file.json --device cuda", &[]);
    ran.code(2)
        .says(&["cannot compile methods", "libnvidia-ptxjitcompiler"]);
}

#[test]
fn memory_that_runs_out_is_an_error() {
    let Some(gpu) = Gpu::new() else { return };
    for settings in [
        ("STUB_CUDA_FAIL_ALLOC", "1"),
        ("STUB_CUDA_FAIL_ALLOC", "3"),
        ("STUB_CUDA_MEMORY", "20000"),
    ] {
        let (ran, seen) = gpu.run("train -q mlp.json --device cuda", &[settings]);
        ran.code(1).says(&["no memory for", "MiB of", "are free"]);
        assert!(seen.left.is_empty(), "left: {:?}", seen.left);
    }
}

/// Whatever call reports the fault of a kernel, what was trained before it is on disk, and the same command goes on.
#[test]
fn a_kernel_that_fails_ends_the_sweep() {
    let Some(gpu) = Gpu::new() else { return };
    let (expected, seen) = gpu.trained("mlp.json --device cuda", &[]);
    let late = (seen.counts["launches"] * 3 / 4).to_string();
    let train = "train -q mlp.json --device cuda --overwrite";
    for (nth, eager, code, name) in [
        ("1", "0", "226", "CONTAINED"),
        (&*late, "0", "700", "ILLEGAL_ADDRESS"),
        (&*late, "1", "999", "UNKNOWN"),
    ] {
        let mut settings = vec![
            ("STUB_CUDA_FAIL_LAUNCH", nth),
            ("STUB_CUDA_FAIL_CODE", code),
            ("STUB_CUDA_EAGER", eager),
        ];
        let (ran, _) = gpu.run(train, &settings);
        ran.code(1)
            .says(&["a kernel or the GPU failed", name, "STEPBACK_NO_GRAPH=1"]);
        settings.push(("STEPBACK_NO_GRAPH", "1"));
        let (ran, seen) = gpu.run(train, &settings);
        let kernel = seen.broken.unwrap();
        assert!(KERNELS.iter().any(|k| k.name == kernel));
        ran.code(1)
            .says(&[&format!("kernel {kernel} failed"), name]);
    }
    // The first of two runs was done.
    let output = gpu.folder.read("output/mlp.json");
    assert_eq!(output.matches("\"history\"").count(), 1);
    let (ran, _) = gpu.run("train -q mlp.json --device cuda", &[]);
    ran.code(0);
    let output = gpu.folder.read("output/mlp.json");
    assert_eq!(without_device(&without_times(&output)), expected);
}
