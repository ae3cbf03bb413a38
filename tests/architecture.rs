//! The shape of the house: who may name whom, and what may be depended on.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

impl Metadata {
    fn read() -> Self {
        let output = cargo(&["metadata", "--format-version", "1", "--offline"]);
        serde_json::from_slice(&output).expect("cargo writes JSON")
    }

    fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }
}

/// The names of all packages that `package` needs to be built and run, not to be tested.
///
/// `cargo metadata` also lists optional packages that no feature asks for; `cargo tree` does not.
fn tree(package: &str) -> BTreeSet<String> {
    let lines = cargo(&[
        "tree",
        "--offline",
        "-p",
        package,
        "-e",
        "no-dev",
        "--prefix",
        "none",
    ]);
    let names = String::from_utf8(lines).expect("cargo writes text");
    names
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(String::from)
        .collect()
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs this test");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

const GROUND: &[&str] = &["rules", "relay"];

/// Who may name which of our own crates outside its tests.
const ARROWS: [(&str, &[&str]); 12] = [
    ("rules", &[]),
    ("relay", &[]),
    ("profile", GROUND),
    ("dns", GROUND),
    ("intercept", GROUND),
    ("control", GROUND),
    ("upstream", GROUND),
    ("gateway", GROUND),
    (
        "daemon",
        &[
            "rules",
            "relay",
            "profile",
            "dns",
            "intercept",
            "control",
            "upstream",
        ],
    ),
    ("cli", &["rules", "control", "profile"]),
    ("tests", &[]),
    ("fuzz", &[]),
];

#[test]
fn arrows_point_down() {
    let metadata = Metadata::read();
    let mut wrong = Vec::new();
    for package in metadata.members() {
        let short = package.name.trim_start_matches("offramp-");
        let allowed = ARROWS.iter().find(|(name, _)| *name == short);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{short} has no place in the house"));
        for dependency in &package.dependencies {
            let ours = dependency.name.strip_prefix("offramp-");
            let in_tests = dependency.kind.as_deref() == Some("dev");
            if let Some(named) = ours.filter(|named| !in_tests && !allowed.contains(named)) {
                wrong.push(format!("{short} names {named}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rules_are_pure() {
    let tree = tree("offramp-rules");
    for banned in ["tokio", "nix", "libc", "socket2", "mio"] {
        assert!(!tree.contains(banned), "rules depends on {banned}");
    }
}

#[test]
fn anyhow_is_for_programs() {
    let metadata = Metadata::read();
    let programs = [
        "offramp-cli",
        "offramp-daemon",
        "offramp-gateway",
        "offramp-tests",
    ];
    let named: Vec<_> = metadata
        .members()
        .filter(|package| !programs.contains(&package.name.as_str()))
        .filter(|package| {
            package
                .dependencies
                .iter()
                .any(|other| other.name == "anyhow")
        })
        .map(|package| &package.name)
        .collect();
    assert!(named.is_empty(), "anyhow in {named:?}");
    // The gateway is a library for others, too, and keeps anyhow to its program.
    let files = sources(&root().join("crates/gateway/src"));
    for (path, text) in files.iter().filter(|(path, _)| !path.ends_with("main.rs")) {
        assert!(!text.contains("anyhow"), "{path} uses anyhow");
    }
}

#[test]
fn one_implementation_of_tls() {
    let metadata = Metadata::read();
    for package in metadata.members() {
        let tree = tree(&package.name);
        for banned in ["ring", "openssl", "openssl-sys", "native-tls", "boring"] {
            assert!(
                !tree.contains(banned),
                "{} depends on {banned}",
                package.name
            );
        }
    }
}

#[test]
fn licences_are_permissive() {
    let permissive = [
        "MIT",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "0BSD",
        "Zlib",
        "Unicode-3.0",
        "CDLA-Permissive-2.0",
        "Unlicense",
        "OpenSSL",
    ];
    let metadata = Metadata::read();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let licence = package.license.as_deref().unwrap_or("none");
        // Every part of an AND must be permissive, one part of an OR is enough.
        let fine = licence.replace('/', " OR ").split(" AND ").all(|part| {
            let choices = part.trim_matches(['(', ')']).split(" OR ");
            choices
                .map(|choice| choice.trim().trim_matches(['(', ')']))
                .any(|choice| permissive.contains(&choice))
        });
        if !fine {
            wrong.push(format!("{}: {licence}", package.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_top_level_is_the_map() {
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "crates",
        "rules",
        "scripts",
        "tests",
    ];
    let entries = std::fs::read_dir(root()).expect("the workspace is there");
    let visible: BTreeSet<_> = entries
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| !name.starts_with('.') && name != "target" && name != "tmp")
        .collect();
    assert_eq!(visible, expected.map(String::from).into());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is in the workspace")
}

/// The path and text of every Rust file below `directory`.
fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are text");
            found.push((path.display().to_string(), text));
        }
    }
    found
}
