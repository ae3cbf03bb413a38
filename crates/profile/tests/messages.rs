//! Every bad file in `tests/bad/` is answered with exactly the messages beside it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;
use std::fs;
use std::path::Path;

use offramp_profile::{Problem, read, read_bytes, read_user};
use offramp_rules::Layer;

/// Write the messages anew with `OFFRAMP_REGENERATE=1 cargo test -p offramp-profile`, and read
/// them.
#[test]
fn bad_files_are_told_what_is_wrong_and_where() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let seen = each(&directory, |text, name| {
        list(&read(text, Some(name), Layer::Managed).unwrap_err())
    });
    assert!(seen >= 20, "only {seen} files were found");
}

fn list(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        writeln!(text, "{} {problem}", problem.code).unwrap();
    }
    text
}

/// Users' files in `tests/bad/users/` likewise.
#[test]
fn bad_files_of_users_are_told_what_is_wrong_and_where() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad/users");
    let seen = each(&directory, |text, name| {
        list(&read_user(text.as_bytes(), Some(name), 1000).unwrap_err())
    });
    assert!(seen >= 2, "only {seen} files were found");
}

/// Holds what is told of every file against the text beside it; returns how many there were.
fn each(directory: &Path, tell: impl Fn(&str, &Path) -> String) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = Path::new(path.file_name().unwrap());
        let told = tell(&fs::read_to_string(&path).unwrap(), name);
        let expected = path.with_extension("txt");
        if std::env::var_os("OFFRAMP_REGENERATE").is_some() {
            fs::write(&expected, &told).unwrap();
        }
        assert_eq!(told, fs::read_to_string(&expected).unwrap());
        assert!(!told.contains("hunter2"), "a secret is shown");
        seen += 1;
    }
    seen
}

#[track_caller]
fn one(bytes: &[u8], expected: &str) {
    let problems = read_bytes(bytes, None, Layer::Managed).unwrap_err();
    assert_eq!(list(&problems), format!("{expected}\n"));
}

#[test]
fn what_is_no_text_says_where() {
    one(
        b"{\n \"\xc3\xa4\xff\"}",
        "Error.ConfigurationCannotBeDeserialized 2:4: is not UTF-8 (save the file as UTF-8)",
    );
    one(
        "\u{feff}{}".as_bytes(),
        "Error.ConfigurationCannotBeDeserialized 1:1: expected value \
         (the file begins with a byte order mark: save it without)",
    );
}

#[test]
fn depth_and_size_have_limits() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    one(
        nested(33).as_bytes(),
        "Error.ConfigurationCannotBeDeserialized 1:33: is nested over 32 levels deep",
    );
    one(
        nested(100_000).as_bytes(),
        "Error.ConfigurationCannotBeDeserialized 1:33: is nested over 32 levels deep",
    );
    one(
        nested(32).as_bytes(),
        "Error.ConfigurationCannotBeDeserialized 1:1: is an array, and has to be an object",
    );
    one(
        " ".repeat((1 << 20) + 1).as_bytes(),
        "Error.ConfigurationCannotBeDeserialized 1:1: is over 1024 KiB",
    );
}

#[test]
fn a_flood_of_problems_has_an_end() {
    let mut text = String::from("{ ");
    for index in 0..40_000 {
        write!(text, "\"Identifie{index}\": 1, ").unwrap();
    }
    text += "\"Type\": 1 }";
    let problems = read(&text, None, Layer::Managed).unwrap_err();
    assert_eq!(problems.len(), 100);
    let empty = format!("{{\"Declarations\": [{}{{}}]}}", "{}, ".repeat(200_000));
    assert_eq!(read(&empty, None, Layer::Managed).unwrap_err().len(), 100);
    let last = problems[99].hint.as_deref().unwrap();
    assert!(
        last.starts_with("and ") && last.ends_with(" more problems"),
        "{last}"
    );
}

#[test]
fn problems_have_a_machine_readable_form() {
    let expected = serde_json::json!({
        "code": "Error.ConfigurationCannotBeDeserialized",
        "file": "a.json",
        "line": 1,
        "column": 9,
        "key_path": "Type",
        "message": "is a number, and has to be a string",
        "hint": null,
    });
    let problems = read("{\"Type\":1}", Some(Path::new("a.json")), Layer::Managed).unwrap_err();
    let found = problems
        .iter()
        .map(|problem| serde_json::to_value(problem).unwrap());
    assert!(found.into_iter().any(|found| found == expected));
}
