//! Files that compilers make, each of one source. A file is made again only if its command has changed, or one of the
//! files that it was made of: this script runs whenever a kernel is edited, and when a commit is made.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::Mutex;
use std::thread;

/// How to make a file.
pub struct Job {
    /// A compiler with its options, of those that gcc, clang and nvcc share; not the names of files.
    pub command: Command,
    pub source: PathBuf,
    pub made: PathBuf,
}

/// Is machine code of use? Clippy, whose build scripts have a folder of their own, only reads.
pub fn of_use() -> bool {
    let wrapper = env::var_os("RUSTC_WORKSPACE_WRAPPER").unwrap_or_default();
    !Path::new(&wrapper).ends_with("clippy-driver")
}

/// Makes what is not there or old, as many files at once as cargo runs jobs. What a compiler says becomes a warning.
pub fn all(jobs: Vec<Job>) {
    let threads = env::var("NUM_JOBS").map_or(1, |n| n.parse().expect("cargo writes a number"));
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().expect("no thread panics with it").next();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = next() {
                    job.run();
                }
            });
        }
    });
}

impl Job {
    fn run(mut self) {
        let [list, stamp] = ["d", "stamp"].map(|e| self.made.with_extension(e));
        self.command.args(["-MMD", "-MF"]).arg(&list);
        self.command.arg("-o").args([&self.made, &self.source]);
        if let Ok(known) = fs::read_to_string(&stamp)
            && self.made.is_file()
            && known == self.fingerprint(&list)
        {
            return;
        }
        // Whatever stops this, the file is not taken for a good one.
        let _ = fs::remove_file(&stamp);
        let program = Path::new(self.command.get_program()).display().to_string();
        let output = self.command.output().unwrap_or_else(|e| {
            eprintln!("cannot run {program}: {e}");
            exit(1)
        });
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let source = self.source.display();
            eprintln!(
                "{text}{program} does not compile {source}: {}",
                output.status
            );
            exit(1);
        }
        for line in text.lines() {
            println!("cargo::warning={line}");
        }
        fs::write(stamp, self.fingerprint(&list)).expect("OUT_DIR is writable");
    }

    /// Of the command and of the files in the compiler's list: `made: source header header`, over several lines.
    fn fingerprint(&self, list: &Path) -> String {
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.command).hash(&mut hasher);
        let list = fs::read_to_string(list).unwrap_or_default();
        let (_, files) = list.split_once(": ").unwrap_or_default();
        for file in files.split_whitespace().filter(|word| *word != "\\") {
            file.hash(&mut hasher);
            // None if it is gone.
            fs::read(file).ok().hash(&mut hasher);
        }
        format!("{:016x}", hasher.finish())
    }
}
