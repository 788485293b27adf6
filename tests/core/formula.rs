//! Files of methods: what is read, and what is said of mistakes.

use std::fs;
use std::path::Path;
use std::process::Command;

use stepback_native::device::gpu::Precision;
use stepback_native::error::Kind as ErrorKind;
use stepback_native::optim::formula::syntax::{Default, Definition, Expr, Kind, Statement};
use stepback_native::optim::formula::{self, FileMethod, load, random_program, read};

use crate::common::draws::Draws;
use crate::common::formulas::{Comparison, compare};
use crate::common::kernels::machines;

const ADEMAMIX: &str = r#"
name  = "ademamix"
about = "Adam with a second, slow average"

[defaults]
lr = 2e-3
aux_lr = 1e-3
betas = [0.9, 0.999, 0.9999]
alpha = 5
warm = true
limit = inf
slow = "sqrt(betas[2])"

[state]
vectors = ["m", "n", "v"]
scalars = {d = "alpha/2", total = 1}

[step]
code = """
m = betas[0]*m + (1 - betas[0])*g   # a comment
n = slow*n + (1 - slow)*g; v = betas[1]*v + (1 - betas[1])*g^2
d = min(d*where(warm, 2, 1), limit)
scale = tensor_norm(w)
total = total + 1e-3
w = w - lr*(
    m + alpha*n   # lines go on inside brackets
)/(sqrt(v) + d)*scale
"""

[evaluate]
code = "w = w + weight_decay*(n - w)"

[report]
names = ["d", "total"]

[apply]
to = "matrix"
rest = "adamw"
"#;

fn definition(text: &str) -> Definition {
    read(text.as_bytes(), "x.toml").unwrap()
}

/// What is said of a file, without its name.
fn said(text: &[u8]) -> Vec<String> {
    let error = read(text, "x.toml").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
    let line = |line: &str| line.strip_prefix("x.toml:").unwrap().to_owned();
    error.message.lines().map(line).collect()
}

/// What is said of `code` in [step], which begins in line 10; column 1 of a line is its own.
fn said_of(code: &str) -> Vec<String> {
    let file = format!(
        "name = \"x\"\n[defaults]\nrho = 0.1\nbetas = [0.9, 0.99]\n[state]\nvectors = [\"m\"]\nscalars = [\"s\"]\n\
         [step]\ncode = '''\n{code}\nm = m + g; s = s + rho*betas[0]; w = w - m*s\n'''"
    );
    said(file.as_bytes())
}

#[test]
fn a_file_is_read() {
    let read = definition(ADEMAMIX);
    assert_eq!(
        (read.name.as_str(), read.text.as_str()),
        ("ademamix", ADEMAMIX)
    );
    let defaults: Vec<_> = read
        .keys
        .iter()
        .map(|key| (key.name.as_str(), &key.default))
        .collect();
    assert_eq!(defaults[0], ("lr", &Default::Number(2e-3)));
    assert_eq!(defaults[1], ("aux_lr", &Default::Number(1e-3)));
    assert_eq!(
        defaults[2],
        ("betas", &Default::List(vec![0.9, 0.999, 0.9999]))
    );
    assert_eq!(defaults[4], ("warm", &Default::Flag(true)));
    assert_eq!(defaults[5], ("limit", &Default::Number(f64::INFINITY)));
    let Default::Formula(slow) = defaults[6].1 else {
        panic!("{defaults:?}")
    };
    assert_eq!(slow.to_string(), "sqrt(betas[2])");
    let vectors: Vec<_> = read
        .vectors
        .iter()
        .map(|state| state.name.as_str())
        .collect();
    assert_eq!(vectors, ["m", "n", "v"]);
    assert_eq!(read.vectors[0].initial, Expr::Number(0.0));
    assert_eq!(read.scalars[0].initial.to_string(), "alpha / 2.0");
    let step: Vec<_> = read
        .step
        .iter()
        .map(|s| (s.name.as_str(), s.kind))
        .collect();
    let (scalar, tensor, vector) = (Kind::Scalar, Kind::Tensor, Kind::Vector);
    let expected = [
        ("m", vector),
        ("n", vector),
        ("v", vector),
        ("d", scalar),
        ("scale", tensor),
        ("total", scalar),
        ("w", vector),
    ];
    assert_eq!(step, expected);
    assert_eq!(
        read.evaluate[0].to_string(),
        "w = w + weight_decay * (n - w)"
    );
    assert_eq!(read.reports, ["d", "total"]);
    assert_eq!(read.rest.as_deref(), Some("adamw"));
}

#[test]
fn operators_bind_as_on_paper() {
    for (code, means) in [
        ("-s^2", "-(s^2)"),
        ("2^-s^2", "2^(-(s^2))"),
        ("s^2^3", "s^(2^3)"),
        ("s - 1 - 2", "(s - 1) - 2"),
        ("s/2*3", "(s/2)*3"),
        ("-s*2", "(-s)*2"),
        ("1 + s*2 < 3 - 4", "(1 + (s*2)) < (3 - 4)"),
        (
            "not s < 1 and s > 2 or s == 3",
            "((not (s < 1)) and (s > 2)) or (s == 3)",
        ),
        ("s or s and not s", "s or (s and (not s))"),
        (".5 + 5. + 1_000 + 1E-3", "0.5 + 5.0 + 1000.0 + 0.001"),
        ("true + false", "1 + 0"),
    ] {
        let value = |code: &str| {
            let file = format!(
                "name = \"x\"\n[state]\nscalars = [\"s\"]\n[step]\ncode = \"s = {code}; w = w*s\""
            );
            definition(&file).step[0].value.clone()
        };
        assert_eq!(value(code), value(means), "{code}");
        assert_eq!(value(code), value(&value(code).to_string()), "{code}");
    }
}

#[test]
fn mistakes_of_code_are_told_with_their_places() {
    for (code, expected) in [
        (
            "u = loos\nw = w + u",
            "10:5: unknown name \"loos\" (did you mean \"loss\"?)",
        ),
        (
            "w = squrt(w)",
            "10:5: unknown function \"squrt\" (did you mean \"sqrt\"?)",
        ),
        (
            "w = sqrt(w, 2)",
            "10:5: 2 arguments of \"sqrt\" (expected sqrt(x))",
        ),
        (
            "w = max(w)",
            "10:5: 1 argument of \"max\" (expected max(a, b))",
        ),
        (
            "w = w*sqrt",
            "10:7: \"sqrt\" is a function (expected its arguments in brackets)",
        ),
        (
            "w = w*u; u = g; w = w + u",
            "10:7: \"u\" is read before line 10 assigns it",
        ),
        (
            "s = g",
            "10:1: \"s\" is a scalar, and its value is a vector (sums such as mean and norm make a scalar of a vector)",
        ),
        (
            "s = size",
            "10:1: \"s\" is a scalar, and its value is one per tensor (sums such as mean and norm make a scalar of a vector)",
        ),
        (
            "u = norm(norm(g))\nw = w + u",
            "10:5: a sum of a scalar, which is no vector",
        ),
        (
            "u = sum(tensor_sum(g))\nw = w + u",
            "10:5: a sum of one per tensor, which is no vector",
        ),
        (
            "w = gradient(w + gradient(w))",
            "10:5: a gradient inside a gradient (give the inner one a name first)",
        ),
        (
            "w = gradient(norm(w))",
            "10:5: gradient of a scalar (expected weights, a vector)",
        ),
        ("w = w/0", "10:6: division by zero"),
        ("w = w/(1 - 1.0)", "10:6: division by zero"),
        (
            "w = w*betas[2]",
            "10:7: \"betas\" has 2 numbers (expected an index from 0 to 1)",
        ),
        (
            "w = w*betas",
            "10:7: \"betas\" is a list (expected one of its numbers, such as betas[0])",
        ),
        (
            "w = w*rho[0]",
            "10:7: \"rho\" is no list, and has no entries",
        ),
        (
            "w = w*betas[s]",
            "10:13: unexpected \"s\" (expected an index, 0, 1, 2 and so on)",
        ),
        (
            "w = w*betas[-1]",
            "10:13: unexpected \"-\" (expected an index, 0, 1, 2 and so on)",
        ),
        (
            "g = w",
            "10:1: \"g\" is given to every method and cannot be assigned (choose another name)",
        ),
        (
            "loss = 1",
            "10:1: \"loss\" is given to every method and cannot be assigned (choose another name)",
        ),
        (
            "rho = 1",
            "10:1: \"rho\" is a key, which cannot be assigned (choose another name)",
        ),
        (
            "weight_decay = 1",
            "10:1: \"weight_decay\" is a key, which cannot be assigned (choose another name)",
        ),
        (
            "norm = 1",
            "10:1: \"norm\" is a function (choose another name)",
        ),
        ("u = g", "10:1: \"u\" is never read behind this"),
        (
            "u = g\nu = w\nw = w + u",
            "10:1: this value of \"u\" is never read before line 11 assigns another",
        ),
        (
            "m = g\nm = w",
            "10:1: this value of \"m\" is never read before line 11 assigns another",
        ),
        (
            "w = w**2",
            "10:6: unexpected \"**\" (a power is written a^b)",
        ),
        (
            "w = w and w && w",
            "10:13: unexpected \"&&\" (it is written a and b)",
        ),
        (
            "w = w < 1 < 2",
            "10:11: unexpected \"<\" (expected no second comparison; write a < b and b < c)",
        ),
        ("w += g", "10:3: unexpected \"+=\" (write w = w + ...)"),
        (
            "w",
            "10:2: unexpected end of line (expected =, as in name = value)",
        ),
        (
            "w = (w + g",
            "11:1: unexpected \"m\" (expected an operator, \")\" for the bracket of line 10)",
        ),
        (
            "w = w g",
            "10:7: unexpected \"g\" (expected an operator, or the statement's end)",
        ),
        (
            "w = w = g",
            "10:7: unexpected \"=\" (expected the statement's end; equality is written ==)",
        ),
        (
            "w = 1 + not w",
            "10:9: unexpected \"not\" (expected a value; put brackets around what begins with it)",
        ),
        (
            "and = w",
            "10:1: unexpected \"and\" (expected a statement, name = value)",
        ),
        (
            "w = w*",
            "10:7: unexpected end of line (expected a number, a name, a function or \"(\")",
        ),
        (
            "w = w*1__0",
            "10:7: unexpected \"1__0\" (a number is written 1, 0.5, 1e-3 or 1_000)",
        ),
        (
            "w = w*1e999",
            "10:7: unexpected \"1e999\" (a double is at most 1.8e308; infinity is written inf)",
        ),
        (
            "# naïve\nw = w × 2",
            "11:7: unexpected \"×\" (code consists of names, numbers, operators and brackets)",
        ),
        (
            "w = max(w, '2')",
            "10:12: unexpected \"'\" (code consists of names, numbers, operators and brackets)",
        ),
    ] {
        assert_eq!(said_of(code), [expected], "{code}");
    }
}

#[test]
fn mistakes_of_files_are_told_with_their_places() {
    let step = "[step]\ncode = 'w = w - g'\n";
    for (file, expected) in [
        ("".to_owned(), &["1:1: a file has no key \"name\"", "1:1: no section [step] (expected one with code that assigns w)"][..]),
        (format!("name = 'a b'\n{step}"), &["1:8: wrong name (expected up to 64 letters, digits, -, _ or dots)"]),
        (format!("name = 'x'\nabuot = 'y'\n{step}"), &["2:1: unknown key \"abuot\" of the file (did you mean \"about\"?)"]),
        (format!("name = 'x'\nabout = 3\n{step}"), &["2:9: \"about\" is an integer (expected a string)"]),
        (format!("name = 'x'\nabout = \"\\u001b[2J\"\n{step}"), &["2:9: \"about\" is more than a line of text"]),
        (format!("name = 'x'\n{step}[evaluat]\ncode = 'w = g'"), &["4:2: unknown key \"evaluat\" of the file (did you mean \"evaluate\"?)"]),
        (format!("name = 'x'\n{step}{step}"), &["4:2: not TOML: duplicate key", "5:1: not TOML: duplicate key"]),
        (format!("name = 'x'\nname = 'y'\n{step}x = = y"), &["2:1: not TOML: duplicate key", "5:5: not TOML: extra `=`, expected nothing",
                "5:7: not TOML: unexpected key or value, expected newline, `#`"]),
        ("name = 'x'\n[step]\ncode = ''\n".into(), &["3:9: no statement in [step] (expected code that assigns w)"]),
        ("name = 'x'\n[step]\ncode = '''\n# nothing\n'''\n".into(), &["3:11: no statement in [step] (expected code that assigns w)"]),
        ("name = 'x'\n[state]\nvectors = ['m']\n[step]\ncode = 'm = m + g'\n".into(), &["5:9: [step] never assigns w"]),
        (format!("name = 'x'\n[defaults]\nbetas = []\nc = [1, 'a']\nd = nan\ne = 99999999999999999999\n{step}"), &[
            "3:1: \"betas\" is a key that nothing reads",
            "3:9: \"betas\" is an empty list",
            "4:1: \"c\" is a key that nothing reads",
            "4:9: \"c\" is a string (expected numbers in a list)",
            "5:1: \"d\" is a key that nothing reads",
            "5:5: \"d\" is NaN or too large (expected a number, or inf)",
            "6:1: \"e\" is a key that nothing reads",
            "6:5: \"e\" is NaN or too large (expected a number, or inf)",
        ]),
        (format!("name = 'x'\n[defaults]\nlookahead_k = 3\nlr = [1, 2]\ng = 3\nexp = 2\n'a b' = 2\n{step}"), &[
            "3:1: \"lookahead_k\" is a key of every method (choose another name)",
            "4:1: \"lr\" is a number of every method, and no list",
            "5:1: \"g\" is given to every method and cannot be assigned (choose another name)",
            "6:1: \"exp\" is a function (choose another name)",
            "7:1: \"a b\" is no name (expected letters, digits and _, the first no digit)",
        ]),
        (format!("name = 'x'\n[defaults]\na = 'b + 1'\nb = '2*c'\nc = 'a^2'\nd = 'w'\ne = 'norm(d)'\nf = 'e +'\n{step}"), &[
            "3:1: \"a\" needs b, which needs c, which needs a",
            "4:1: \"b\" needs c, which needs a, which needs b",
            "5:1: \"c\" needs a, which needs b, which needs c",
            "6:6: unknown name \"w\" (known: a, b, c, d, e, f, lr, weight_decay)",
            "7:6: a sum in a formula of keys (expected in [step] alone)",
            "8:9: unexpected end of the code (expected a number, a name, a function or \"(\")",
        ]),
        (format!("name = 'x'\n[defaults]\na = 1\n[state]\nvectors = ['m', 'a', 'm', 3, 'lr']\nscalars = {{s = 'm', t = [1]}}\nvector = []\n{step}"), &[
            "3:1: \"a\" is a key that nothing reads",
            "5:12: \"m\" is state that [step] never assigns",
            "5:17: \"a\" is declared in line 3 already",
            "5:22: \"m\" is declared in line 5 already",
            "5:27: \"vectors\" is an integer (expected names in a list)",
            "5:30: \"lr\" is a key of every method (choose another name)",
            "6:12: \"s\" is state that [step] never assigns",
            "6:17: \"m\" is state (expected keys and numbers)",
            "6:21: \"t\" is state that [step] never assigns",
            "6:25: \"t\" is an array (expected a number, or a formula of keys in a string)",
            "7:1: unknown key \"vector\" of [state] (did you mean \"vectors\"?)",
        ]),
        ("name = 'x'\n[state]\nvectors = ['m']\n[step]\ncode = 'm = g; w = w - g'\n".into(), &["3:12: \"m\" is state that nothing reads"]),
        ("name = 'x'\n[state]\nvectors = ['m']\n[step]\ncode = 'm = g; u = norm(g); w = w - u*g'\n[evaluate]\ncode = 'w = m + u + g*k*lr; m = w; v = sum(w)'".into(), &[
            "7:17: \"u\" is not known outside of [step] (make it state to read it in [evaluate])",
            "7:21: \"g\" is not known in [evaluate] (known: w, w0, size, rows, cols, ndim, head, m, weight_decay)",
            "7:23: \"k\" is not known in [evaluate] (known: w, w0, size, rows, cols, ndim, head, m, weight_decay)",
            "7:25: \"lr\" is not known in [evaluate] (known: w, w0, size, rows, cols, ndim, head, m, weight_decay)",
            "7:29: [evaluate] assigns \"m\", which is state (it may assign w and names of its own)",
            "7:36: \"v\" is never read behind this",
            "7:40: a sum in [evaluate] (expected in [step] alone)",
        ]),
        (format!("name = 'x'\n{step}[evaluate]\ncode = '# nothing'\n"), &["5:9: no statement in [evaluate] (expected code that assigns w)"]),
        ("name = 'x'\n[step]\ncode = 'u = norm(g); v = g/u; w = w - v'\n[report]\nnames = ['u', 'u', 'q', 'v', 3]".into(), &[
            "5:15: \"u\" twice",
            "5:20: \"q\" is no scalar that [step] assigns (known: u)",
            "5:25: \"v\" is a vector (expected a scalar)",
            "5:30: \"names\" is an integer (expected names in a list)",
        ]),
        ("name = 'x'\n[step]\ncode = 'epoch_ = norm(g); train_loss = epoch_; w = w - train_loss*g'\n[report]\nnames = ['train_loss']".into(), &[
            "5:10: \"train_loss\" is in every history (give the scalar another name)",
        ]),
        (format!("name = 'x'\n{step}[report]\n[apply]\nto = 'vectors'\n"), &[
            "4:1: [report] has no key \"names\"",
            "5:1: [apply] has no key \"rest\"",
            "6:6: unknown parameters \"vectors\" (expected \"matrix\")",
        ]),
        (format!("name = 'x'\n{step}[defaults]\naux_lr = 1\n[apply]\nto = 'matrix'\nrest = 'adan'\n"), &[
            "8:8: no method \"adan\" for all parameters (did you mean \"adam\"?)",
        ]),
        ("name = 'x'\nstate = 3\nstep = 4\n".into(), &[
            "1:1: no section [step] (expected one with code that assigns w)",
            "2:9: \"state\" is an integer (expected a section, [state])",
            "3:8: \"step\" is an integer (expected a section, [step])",
        ]),
        ("name = 'x'\n[step]\ncode = \"w = w -\\u0020g\"\n".into(), &["3:16: unexpected \"\\\\\" (code has no escapes)"]),
    ] {
        assert_eq!(said(file.as_bytes()), expected, "{file}");
    }
}

#[test]
fn what_is_made_orthogonal_is_a_vector_of_matrices() {
    let file = |w: &str, more: &str| {
        format!(
            "name = 'x'\n[defaults]\nn = 5\nc = [3, -5, 2]\nd = [1, 2]\nlr = 'd[0] + c[0]'\n[step]\ncode = 'w = w - lr*{w} + n'\n{more}"
        )
    };
    let apply = "[apply]\nto = 'matrix'\nrest = 'adamw'\n";
    let read = definition(&file("orthogonalize(g, n + 1, c)", apply));
    let code = "w = w - lr * orthogonalize(g, n + 1.0, c) + n";
    assert_eq!(read.step[0].to_string(), code);
    let three = "expected the name of a key that is a list of three numbers, such as [3.4445, -4.775, 2.0315]";
    for (w, more, expected) in [
        ("orthogonalize(g, n, c)", "", vec!["8:20: orthogonalize of parameters that are no matrices (expected [apply] with to = \"matrix\", and a method for the rest)".to_owned()]),
        ("orthogonalize(norm(g), n, c)", apply, vec!["8:20: orthogonalize of a scalar (expected a vector, of whose matrices each is made orthogonal)".into()]),
        ("orthogonalize(tensor_sum(g), n, c)", apply, vec!["8:20: orthogonalize of one per tensor (expected a vector, of whose matrices each is made orthogonal)".into()]),
        ("orthogonalize(g, k, c)", apply, vec!["8:37: unknown name \"k\" (known: c, d, lr, n, weight_decay)".into()]),
        ("orthogonalize(g, n, d)", apply, vec![format!("8:40: {three}")]),
        ("orthogonalize(g, n, 3)", apply, vec![format!("8:40: {three}")]),
        ("orthogonalize(g, n, c[0])", apply, vec![format!("8:40: {three}")]),
        ("orthogonalize(g, n)", apply, vec!["8:20: 2 arguments of \"orthogonalize\" (expected orthogonalize(x, steps, coefficients))".into()]),
        ("orthogonalise(g, n, c)", apply, vec!["8:20: unknown function \"orthogonalise\" (did you mean \"orthogonalize\"?)".into(), "8:40: \"c\" is a list (expected one of its numbers, such as c[0])".into()]),
        ("orthogonalize(g, n, c)", "[evaluate]\ncode = 'w = orthogonalize(w, n, c)'\n[apply]\nto = 'matrix'\nrest = 'adamw'\n", vec!["10:13: orthogonalize in [evaluate] (expected in [step] alone)".into()]),
    ] {
        assert_eq!(said(file(w, more).as_bytes()), expected, "{w}");
    }
}

#[test]
fn limits_are_told() {
    let step = |code: &str| format!("name = 'x'\n[step]\ncode = '{code}'\n");
    let long = said(step(&format!("w = w{}", " + g".repeat(401))).as_bytes());
    assert_eq!(long, ["3:1615: more than 400 operations in a file"]);
    definition(&step(&format!("w = w{}", " + g".repeat(400))));
    let nested =
        |open: &str, close: &str| step(&format!("w = {}g{}", open.repeat(51), close.repeat(51)));
    let deeper =
        "brackets, functions and signs nested deeper than 50 (give parts a name of their own)";
    for (open, close) in [
        ("(", ")"),
        ("-", ""),
        ("not ", ""),
        ("abs(", ")"),
        ("g^", ""),
    ] {
        let said = said(nested(open, close).as_bytes());
        assert!(said.len() == 1 && said[0].ends_with(deeper), "{said:?}");
    }
    let all = step(&format!("w = {}g", "(".repeat(60_000)));
    assert_eq!(said(all.as_bytes()), [format!("3:63: {deeper}")]);
    let huge = format!("{}# {}", step("w = g"), "(".repeat(100_000));
    assert_eq!(said(huge.as_bytes()), [" larger than 64 KB (no method is)"]);
    assert_eq!(
        said(b"name = 'x'\n# na\xEFve"),
        ["2:5: not UTF-8 (save the file as UTF-8)"]
    );
    let arrays = said(format!("name = {}", "[".repeat(60_000)).as_bytes());
    assert_eq!(
        arrays[0],
        "1:88: not TOML: cannot recurse further; max recursion depth met"
    );
    let names = |n: usize| {
        (0..n)
            .map(|i| format!("'a{i}'"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let state = |kind: &str, n: usize| {
        format!(
            "name = 'x'\n[state]\n{kind} = [{}]\n[step]\ncode = 'w = g'",
            names(n)
        )
    };
    assert_eq!(
        said(state("vectors", 33).as_bytes()),
        ["3:11: more than 32 vectors"]
    );
    assert_eq!(
        said(state("scalars", 65).as_bytes()),
        ["3:11: more than 64 scalars"]
    );
    assert_eq!(
        said(state("scalars", 64).as_bytes()).len(),
        51,
        "fifty, and that there are more"
    );
}

#[test]
fn files_are_regular_ones_or_links_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("mine.toml"), ADEMAMIX).unwrap();
    std::os::unix::fs::symlink("mine.toml", path("link.toml")).unwrap();
    assert_eq!(load(&path("mine.toml")).unwrap().name, "ademamix");
    assert_eq!(load(&path("link.toml")).unwrap().name, "ademamix");

    let refused = |path: &Path, expected: &str| {
        let error = load(path).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        let expected = format!("{}: {expected}", path.display());
        assert!(error.message.starts_with(&expected), "{error}");
    };
    let fifo = path("fifo.toml");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    refused(&fifo, "cannot read: it is not a regular file");
    refused(folder.path(), "cannot read: it is a folder");
    refused(
        Path::new("/dev/zero"),
        "cannot read: it is not a regular file",
    );
    std::os::unix::fs::symlink("fifo.toml", path("to_fifo.toml")).unwrap();
    refused(
        &path("to_fifo.toml"),
        "cannot read: it is not a regular file",
    );
    let near = format!("(did you mean {}?)", path("mine.toml").display());
    let error = load(&path("mien.toml")).unwrap_err();
    assert!(error.message.ends_with(&near), "{error}");

    let mut text = ADEMAMIX.as_bytes().to_vec();
    text.resize(64 << 10, b'\n');
    fs::write(path("large.toml"), &text).unwrap();
    assert!(load(&path("large.toml")).is_ok());
    text.push(b'\n');
    fs::write(path("large.toml"), &text).unwrap();
    refused(&path("large.toml"), "larger than 64 KB (no method is)");
}

#[test]
fn random_methods_are_right_and_written_as_they_are_read() {
    for seed in 0..500 {
        let mut draws = Draws::new(seed);
        let text = random_program(|n| draws.below(n));
        let read = read(text.as_bytes(), "x.toml").unwrap_or_else(|e| panic!("{e}\n{text}"));
        let lines = |statements: &[Statement]| {
            let lines = statements.iter().map(Statement::to_string);
            lines.collect::<Vec<_>>().join("\n")
        };
        let (before, behind) = text.split_once("code = \"\"\"\n").unwrap();
        let (_, behind) = behind.split_once("\"\"\"\n").unwrap();
        let step = lines(&read.step);
        let again = definition(&format!("{before}code = \"\"\"\n{step}\"\"\"\n{behind}"));
        assert_eq!(again.step, read.step, "{step}");
    }
}

#[test]
fn random_methods_do_the_same_on_every_machine() {
    let mut counts = [0; 3];
    for machine in machines(1) {
        for seed in 0..100 {
            let mut draws = Draws::new(seed);
            let text = random_program(|n| draws.below(n));
            let target = machine.target(Precision::Fp32);
            counts[compare(&text, || machine.open(), target) as usize] += 1;
        }
        let [exact, close, _] = counts;
        assert!(exact + close >= 60, "few can be compared: {counts:?}");
        counts = [0; 3];
    }
}

/// The CPU does several operators in one loop.
#[test]
fn operators_round_one_by_one() {
    let text = r#"name = "x"
[state]
vectors = ["v"]
[step]
code = """
v = 0.5*v + g*g
w = w - 0.3*g/(sqrt(v)/0.7 + 0.01)
w = w + 0.9*(g/(sqrt(v/0.3) + 0.5))
w = 0.7*g/(sqrt(v)/1e-20 + 0.3) - 0.9*w
w = g/(sqrt(v/0.9)/0.3) - w
w = w*(0.3*g/(sqrt(v) + 1))
w = w + max(g/(sqrt(v/0.7)/0.9 + 0.1), w)
w = fma(-0.3, g, w)/0.7
w = fma(0.7*g, 0.9*v, w)/1.3 + 0.1*w
w = w*sqrt(fma(g, g, v)/1.7) - sqrt(v + 0.1)/0.3
"""
"#;
    for machine in machines(1) {
        let target = machine.target(Precision::Fp32);
        let comparison = compare(text, || machine.open(), target);
        assert_eq!(comparison, Comparison::Exact);
    }
}

#[test]
fn files_look_different_in_figures() {
    use stepback_native::results::plot::look;
    let mut looks = Vec::new();
    let carried = formula::rows().into_iter().map(|row| row.entry.name);
    for name in carried.chain(["mine/a.toml", "mine/b.toml"]) {
        let look = look(name);
        assert!(!looks.contains(&look), "{name}");
        looks.push(look);
    }
}

/// Its layouts are more than can be tried.
#[test]
fn a_step_of_many_sums_is_planned() {
    let mut code = "a0 = g\n".to_owned();
    for i in 0..40 {
        code += &format!("a{} = a{i}/norm(a{i}) + exp(a{i})*g + {i}\n", i + 1);
    }
    let terms: Vec<String> = (0..=40).map(|i| format!("a{i}")).collect();
    let file = format!(
        "name = 'x'\n[step]\ncode = \"\"\"\n{code}w = {}\"\"\"",
        terms.join(" + ")
    );
    let method = FileMethod::of(&definition(&file), |_| None, 0.0);
    assert_eq!(method.plan().passes().count(), 41);
}
