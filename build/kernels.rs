//! Reads the `KERNEL(...)` lines and writes a typed Rust function for each.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// A `.cu` file and the kernels that it declares.
pub struct Source {
    pub path: PathBuf,
    /// Its name without `.cu`.
    pub stem: String,
    kernels: Vec<Kernel>,
}

/// A structure that kernels take, which is written once, in C++: here is its twin.
struct Struct {
    name: String,
    /// Where it is declared.
    file: PathBuf,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    rust: &'static str,
    size: u32,
    comment: String,
}

impl Source {
    /// Its text, in which every kernel begins with `begin_kernel` of `kernels/common.cuh`.
    pub fn begun(&self) -> String {
        let text = fs::read_to_string(&self.path).expect("a readable kernel file");
        let mut pieces = text.split("\nKERNEL(");
        let before = pieces.next().unwrap_or_default();
        let kernels = pieces.map(|rest| {
            let (declaration, body) = rest.split_once(") {").expect("a kernel that was read");
            format!("\nKERNEL({declaration}) {{ begin_kernel();{body}")
        });
        let kernels: String = kernels.collect();
        format!("#line 1 \"{}\"\n{before}{kernels}", self.path.display())
    }

    /// What the names of all kernels that take the same as this one begin with.
    fn family(&self, kernel: &Kernel) -> String {
        let alike = self.kernels.iter();
        let alike = alike.filter(|other| other.parameters == kernel.parameters);
        let begins_with = |words: &[&str]| {
            let mut names = alike.clone().map(|other| other.name.split('_'));
            names.all(|name| name.zip(words).filter(|(a, b)| a == *b).count() == words.len())
        };
        let mut words: Vec<&str> = kernel.name.split('_').collect();
        while !begins_with(&words) {
            words.pop();
        }
        words.join("_")
    }

    /// The structure that the kernel's function takes its arguments in, if they are many: `linear_fwd_64` and
    /// `linear_fwd_128` take a `LinearFwd`.
    fn structure_of(&self, kernel: &Kernel) -> Option<String> {
        let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
        let many = kernel.parameters.len() > MOST_PARAMETERS;
        many.then(|| self.family(kernel).split('_').map(capital).collect())
    }
}

impl Struct {
    /// Is it declared in this file, or in a header?
    fn is_seen_by(&self, path: &Path) -> bool {
        self.file == path || self.file.extension().is_some_and(|e| e == "cuh")
    }

    /// Of the twin, seen from what is written here.
    fn path(&self) -> String {
        format!("gpu::kernels::{}", self.name)
    }

    fn size(&self) -> u32 {
        self.fields.iter().map(|f| f.size).sum()
    }
}

struct Kernel {
    name: String,
    threads: u32,
    parameters: Vec<Parameter>,
}

#[derive(PartialEq)]
struct Parameter {
    name: String,
    rust: String,
    size: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Value(char),
    Read,
    Write,
}

/// Types of parameters, or of what they point to: in C++, in Rust, bytes, and the code that the C++ compiler
/// deduces for a value (see `kernels/emulator/cuda.h`).
const TYPES: &[(&str, &str, u32, char)] = &[
    ("float", "f32", 4, 'f'),
    ("double", "f64", 8, 'f'),
    ("int", "i32", 4, 'i'),
    ("unsigned", "u32", 4, 'u'),
    ("long long", "i64", 8, 'i'),
    ("unsigned long long", "u64", 8, 'u'),
    ("unsigned char", "u8", 1, 'u'),
];

/// The `.cu` files of a folder, by name.
pub fn files(folder: &Path) -> Vec<Source> {
    let entries = fs::read_dir(folder).expect("the folder of the kernels");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    paths.sort();
    let structs = structs();
    paths.into_iter().map(|path| read(path, &structs)).collect()
}

/// All structures of plain numbers in the kernels' files: `struct Name {` alone on a line, then lines of fields,
/// `double lr, eps;  // a comment`, then `};`. Others, with methods or templates, are not for Rust.
fn structs() -> Vec<Struct> {
    let entries = fs::read_dir("kernels").expect("the folder of the kernels");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    paths.sort();
    let mut structs: Vec<Struct> = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("a readable kernel file");
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let name = line
                .strip_prefix("struct ")
                .and_then(|l| l.strip_suffix(" {"));
            let Some(name) = name.filter(|n| !n.contains(' ')) else {
                continue;
            };
            let body = lines[at + 1..].iter().take_while(|l| **l != "};");
            let fields: Option<Vec<Vec<Field>>> = body.map(|line| fields(line)).collect();
            if let Some(fields) = fields {
                structs.push(Struct {
                    name: name.to_owned(),
                    file: path.clone(),
                    fields: fields.into_iter().flatten().collect(),
                });
            }
        }
    }
    structs
}

/// The fields that a line declares; none if it is more than a declaration of numbers.
fn fields(line: &str) -> Option<Vec<Field>> {
    let (code, comment) = line.split_once("//").unwrap_or((line, ""));
    let code = code.trim();
    if code.is_empty() {
        return Some(Vec::new());
    }
    let (head, names) = code.strip_suffix(';').map(|declaration| {
        let first = declaration.split(',').next().unwrap_or_default();
        let end = first.rfind(' ').unwrap_or(0);
        (&declaration[..end], &declaration[end..])
    })?;
    let (_, rust, size, _) = TYPES.iter().find(|(cpp, ..)| *cpp == head)?;
    let field = |name: &str| Field {
        name: name.trim().to_owned(),
        rust,
        size: *size,
        comment: comment.trim().to_owned(),
    };
    Some(names.split(',').map(field).collect())
}

fn read(path: PathBuf, structs: &[Struct]) -> Source {
    let text = fs::read_to_string(&path).expect("a readable kernel file");
    let code: Vec<&str> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let code = format!("\n{}", code.join("\n"));
    assert!(
        !code.contains("__shared__"),
        "{}: write SHARED or SHARED_DYN, which the emulator guards, not __shared__",
        path.display()
    );
    let stem = path.file_stem().expect("a file").to_string_lossy();
    let lists = parameter_lists(&code);
    Source {
        stem: stem.into_owned(),
        kernels: code
            .split("\nKERNEL(")
            .skip(1)
            .map(|rest| kernel(rest, &lists, &path, structs))
            .collect(),
        path,
    }
}

/// The lists of parameters that a file's kernels share: `#define NAME const float* x, ...`, over several lines perhaps.
fn parameter_lists(code: &str) -> Vec<(String, String)> {
    let code = code.replace("\\\n", " ");
    let defined = code.lines().filter_map(|l| l.strip_prefix("#define "));
    let lists = defined.filter_map(|l| l.split_once(' '));
    lists
        .map(|(name, list)| (name.to_owned(), list.to_owned()))
        .collect()
}

fn kernel(rest: &str, lists: &[(String, String)], path: &Path, structs: &[Struct]) -> Kernel {
    let (declaration, _) = rest
        .split_once(") {")
        .unwrap_or_else(|| panic!("{}: a KERNEL( without \") {{\"", path.display()));
    let items = declaration.split(',').map(str::trim);
    let mut items = items.flat_map(|item| {
        let list = lists.iter().find(|(name, _)| name == item);
        let items = list.map_or(item, |(_, list)| list).split(',');
        items.map(str::trim)
    });
    let name = items.next().unwrap_or_default().to_owned();
    let threads = items.next().and_then(|t| t.parse().ok());
    let threads = threads.unwrap_or_else(|| panic!("{name}: its number of threads is no number"));
    let parameters = items
        .map(|item| parameter(item, &name, path, structs))
        .collect();
    Kernel {
        name,
        threads,
        parameters,
    }
}

/// `const float* __restrict__ x`. What it does not know stops the build.
fn parameter(item: &str, kernel: &str, path: &Path, structs: &[Struct]) -> Parameter {
    let text = item.replace("__restrict__", " ").replace('*', " * ");
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let name = words.pop().unwrap_or_default().to_lowercase();
    let (pointer, constant) = (words.contains(&"*"), words.contains(&"const"));
    words.retain(|w| !matches!(*w, "*" | "const" | "volatile"));
    let cpp = words.join(" ");
    let number = TYPES.iter().find(|(c, ..)| *c == cpp);
    let number = number.map(|(_, rust, size, code)| ((*rust).to_owned(), *size, *code));
    let structure = structs.iter().find(|s| s.name == cpp && s.is_seen_by(path));
    let structure = || structure.map(|s| (s.path(), s.size(), 's'));
    let Some((rust, size, code)) = number.or_else(structure) else {
        panic!("{kernel}: build/kernels.rs does not know the type {cpp:?} of {name}");
    };
    let kind = match (pointer, constant) {
        (true, true) => Kind::Read,
        (true, false) => Kind::Write,
        (false, _) => Kind::Value(code),
    };
    Parameter {
        name,
        rust,
        size,
        kind,
    }
}

/// Writes the Rust twins of the structures that kernels take.
fn write_structs(sources: &[Source], text: &mut String) {
    let taken = |s: &Struct| {
        let seen = sources.iter().filter(|source| s.is_seen_by(&source.path));
        let kernels = seen.flat_map(|source| &source.kernels);
        kernels
            .flat_map(|k| &k.parameters)
            .any(|p| p.rust == s.path())
    };
    for Struct { name, file, fields } in structs().into_iter().filter(taken) {
        let file = file.display();
        let mut list = String::new();
        for field in fields {
            if !field.comment.is_empty() {
                writeln!(list, "    /// {}", field.comment).expect("a string grows");
            }
            writeln!(list, "    pub {}: {},", field.name, field.rust).expect("a string grows");
        }
        // `Pod` makes sure that there is no padding, so that both compilers lay it out alike.
        writeln!(
            text,
            "/// `{name}` in `{file}`.\n#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]\n#[repr(C)]\npub struct {name} {{\n{list}}}\n"
        )
        .expect("a string grows");
    }
}

/// Parameters that a launch function takes one by one; of more it takes a structure with their names.
const MOST_PARAMETERS: usize = 8;

/// Writes the function that launches a kernel.
fn write_function(index: usize, source: &Source, kernel: &Kernel, functions: &mut String) {
    let name = &kernel.name;
    let (mut signature, mut arguments) = (String::new(), String::new());
    let structure = source.structure_of(kernel);
    if let Some(structure) = &structure {
        write!(signature, ", arguments: {structure}").expect("a string grows");
    }
    for parameter in &kernel.parameters {
        let Parameter { name, rust, .. } = parameter;
        let from = match &structure {
            Some(_) => format!("arguments.{name}"),
            None => {
                let wanted = match parameter.kind {
                    Kind::Value(_) => rust.clone(),
                    Kind::Read | Kind::Write => format!("impl Into<View<{rust}>>"),
                };
                write!(signature, ", {name}: {wanted}").expect("a string grows");
                match parameter.kind {
                    Kind::Value(_) => name.clone(),
                    Kind::Read | Kind::Write => format!("{name}.into()"),
                }
            }
        };
        let argument = match parameter.kind {
            Kind::Value(_) => format!("gpu::Argument::value({from})"),
            Kind::Read => format!("gpu::Argument::Read({from}.into())"),
            Kind::Write => format!("gpu::Argument::Write({from}.into())"),
        };
        write!(arguments, "{argument}, ").expect("a string grows");
    }
    writeln!(
        functions,
        "/// Launches the kernel of this name in `kernels/{}.cu`.\n#[allow(clippy::too_many_arguments)]\npub fn {name}(program: &mut Program, grid: impl Into<gpu::Grid>{signature}) {{\n    program.launch(gpu::Callee::Built(&KERNELS[{index}]), grid.into(), vec![{arguments}]);\n}}",
        source.stem
    )
    .expect("a string grows");
}

/// Writes the structures of arguments: one for all kernels of a file that take the same.
fn write_arguments(sources: &[Source], text: &mut String) {
    let mut written = Vec::new();
    for source in sources {
        for kernel in &source.kernels {
            let Some(name) = source.structure_of(kernel) else {
                continue;
            };
            match written.iter().find(|(other, _)| *other == name) {
                Some((_, parameters)) if *parameters == &kernel.parameters => continue,
                Some(_) => panic!(
                    "{}: {} and another kernel take different arguments, but both would take them as {name}: rename one",
                    source.path.display(),
                    kernel.name
                ),
                None => written.push((name.clone(), &kernel.parameters)),
            }
            let mut list = String::new();
            for Parameter {
                name, rust, kind, ..
            } in &kernel.parameters
            {
                let rust = match kind {
                    Kind::Value(_) => rust.clone(),
                    Kind::Read | Kind::Write => format!("View<{rust}>"),
                };
                writeln!(list, "    pub {name}: {rust},").expect("a string grows");
            }
            writeln!(
                text,
                "/// Arguments of `{}` in `kernels/{}.cu`.\n#[derive(Clone, Copy, Default)]\npub struct {name} {{\n{list}}}\n",
                source.family(kernel),
                source.stem
            )
            .expect("a string grows");
        }
    }
}

/// Writes the table of kernels, a function per kernel that puts its launch in a queue, and the images for GPUs,
/// each with its file's name.
pub fn write_launchers(
    sources: &[Source],
    images: Option<&[(String, PathBuf)]>,
    emulated: bool,
    to: &Path,
) {
    let (mut table, mut functions) = (String::new(), String::new());
    let all = sources
        .iter()
        .flat_map(|s| s.kernels.iter().map(move |k| (s, k)));
    for (index, (source, kernel)) in all.clone().enumerate() {
        let Kernel {
            name,
            threads,
            parameters,
        } = kernel;
        let mut listed = String::new();
        for Parameter {
            name, size, kind, ..
        } in parameters
        {
            let code = match kind {
                Kind::Value(code) => *code,
                Kind::Read => 'r',
                Kind::Write => 'w',
            };
            write!(
                listed,
                "gpu::Parameter {{ name: Cow::Borrowed({name:?}), code: {code:?}, size: {size} }}, "
            )
            .expect("a string grows");
        }
        let record = match emulated {
            true => format!("Some(unsafe {{ &emulated_{name} }})"),
            false => "None".to_owned(),
        };
        writeln!(
            table,
            "    gpu::Kernel {{ name: Cow::Borrowed({name:?}), threads: {threads}, parameters: Cow::Borrowed(&[{listed}]), body: gpu::Body::Built {{ file: {:?}, record: {record} }} }},",
            source.stem
        )
        .expect("a string grows");
        write_function(index, source, kernel, &mut functions);
    }
    let mut text = String::from(
        "// Written by build/kernels.rs.\nuse std::borrow::Cow;\n\nuse crate::device::{Program, View, gpu};\n\n",
    );
    if images.is_some() {
        write_structs(sources, &mut text);
    }
    write_arguments(sources, &mut text);
    if emulated {
        text.push_str("unsafe extern \"C\" {\n");
        for (_, kernel) in all {
            writeln!(text, "    static emulated_{}: gpu::Record;", kernel.name)
                .expect("a string grows");
        }
        text.push_str("}\n");
    }
    write!(
        text,
        "/// All kernels.\npub static KERNELS: &[gpu::Kernel] = &[\n{table}];\n{functions}"
    )
    .expect("a string grows");
    if let Some(images) = images {
        let list: String = images
            .iter()
            .map(|(stem, path)| format!("    ({stem:?}, include_bytes!({path:?})),\n"))
            .collect();
        write!(
            text,
            "/// Machine code for GPUs, by file; none if there was no nvcc.\npub static IMAGES: &[(&str, &[u8])] = &[\n{list}];\n"
        )
        .expect("a string grows");
    }
    fs::write(to, text).expect("OUT_DIR is writable");
}
