//! Where a result is from: the build, the command and the machine, as every summary says.

use std::fs;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

#[cfg(target_arch = "x86_64")]
use crate::cpu::avx512;
use crate::cpu::gemm;

/// `pid` of another host means nothing here, so the host is named wherever a process is.
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim_end() {
        "" => "an unknown host".into(),
        name => name.into(),
    }
}

/// What is the same for all results of this process.
pub fn of_process() -> Map<String, Value> {
    static ALL: LazyLock<Map<String, Value>> = LazyLock::new(|| {
        let command: Vec<_> = std::env::args_os().collect();
        let command: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        let entries = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": option_env!("STEPBACK_COMMIT"),
            "command": command.join(" "),
            "host": host(),
            "processor": processor(),
        });
        match entries {
            Value::Object(map) => map,
            _ => unreachable!("an object was written"),
        }
    });
    ALL.clone()
}

/// All of a process that bits depend on: the build, to the last byte, and the processor.
pub fn of_bits() -> Map<String, Value> {
    static ALL: LazyLock<Map<String, Value>> = LazyLock::new(|| {
        let mut all = of_process();
        all.retain(|key, _| ["version", "commit", "processor"].contains(&key.as_str()));
        // A build of edited files has the commit of the others.
        let sum = fs::read("/proc/self/exe").map(|bytes| crc32c::crc32c(&bytes));
        all.insert("executable".into(), sum.ok().into());
        all.insert("caches".into(), gemm::caches().into());
        all
    });
    ALL.clone()
}

/// The instruction sets that are used, which decide over products and so over last digits.
fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        // Unless the environment keeps it out.
        ("avx512f", avx512().unwrap_or(false)),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found: [(&str, bool); 0] = [];
    let sets = found.into_iter().filter(|(_, there)| *there);
    let sets: Vec<&str> = sets.map(|(set, _)| set).collect();
    [std::env::consts::ARCH]
        .into_iter()
        .chain(sets)
        .collect::<Vec<_>>()
        .join(" ")
}
