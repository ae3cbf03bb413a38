//! Copies of good files, for the time after a restart.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use offramp_profile::Code;
use offramp_rules::Layer;

use crate::machine::{Machine, declaration, mode, names, told};

fn copies(machine: &Machine) -> Vec<PathBuf> {
    let entries = fs::read_dir(machine.root.path().join("state/good")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_bad_file_is_in_force_as_it_was_before_the_restart() {
    for (path, layer) in [
        ("etc/policies/managed/a.json", Layer::Managed),
        ("etc/policies/recommended/a.json", Layer::Recommended),
        ("vendor/managed/a.json", Layer::Vendor),
    ] {
        let machine = Machine::new();
        let file = machine.write(
            path,
            &declaration("a", "good \u{e4} \"x\"".replace('"', "'").as_str()),
        );
        let good = machine.restart();
        assert_eq!(good.problems, []);
        machine.write(path, "{");
        for _ in 0..2 {
            let kept = machine.restart();
            assert_eq!(names(&kept), [("good ä 'x'".to_owned(), layer)]);
            assert_eq!(kept.profiles, good.profiles);
            let expected = format!(
                "Error.ConfigurationCannotBeDeserialized {path}:1:1: EOF while parsing an object"
            );
            assert_eq!(told(&machine, &kept), [expected]);
        }
        machine.write(path, &declaration("a", "new"));
        assert_eq!(names(&machine.restart()), [("new".to_owned(), layer)]);
        mode(&file, 0o666);
        assert_eq!(names(&machine.restart()), [("new".to_owned(), layer)]);
        fs::remove_file(&file).unwrap();
        assert_eq!(names(&machine.restart()), []);
        assert_eq!(copies(&machine), Vec::<PathBuf>::new());
        machine.write(path, "{");
        assert_eq!(names(&machine.restart()), [], "what was gone comes back");
    }
}

#[test]
fn a_directory_is_in_force_as_it_was_before_the_restart() {
    let machine = Machine::new();
    machine.write("vendor/managed/v.json", &declaration("v", "masked"));
    machine.write("etc/policies/managed/a.json", &declaration("a", "x"));
    let directory = machine.config().join("policies/managed");
    symlink("/dev/null", directory.join("v.json")).unwrap();
    let before = names(&machine.restart());
    assert_eq!(before, [("x".to_owned(), Layer::Managed)]);
    mode(&directory, 0o777);
    for _ in 0..2 {
        let kept = machine.restart();
        assert_eq!(names(&kept), before);
        assert_eq!(
            told(&machine, &kept),
            [
                "Error.ConfigurationCannotBeApplied etc/policies/managed: the directory has mode 0777 \
              (no file in it counts while others may change it: chown root and chmod go-w)"
            ]
        );
    }
    mode(&directory, 0o755);
    let masked = machine.restart();
    fs::remove_file(directory.join("v.json")).unwrap();
    machine.write("etc/policies/managed/v.json", "");
    for previous in [None, Some(&masked)] {
        let loaded = machine.load(previous);
        assert_eq!(
            loaded.problems.len(),
            1,
            "an empty file is no link to /dev/null"
        );
        assert_eq!(names(&loaded), before);
    }
    fs::remove_file(directory.join("v.json")).unwrap();
    assert_eq!(names(&machine.restart()).len(), 2);
}

#[test]
fn damaged_copies_count_for_nothing() {
    let machine = Machine::new();
    let path = "etc/policies/managed/a.json";
    machine.write(path, &declaration("a", "good"));
    machine.restart();
    let copy = copies(&machine).remove(0);
    let text = fs::read_to_string(&copy).unwrap();
    let damaged = [
        text.replace("good", "evil"),
        text.replace("a.json", "b.json"),
        text[..text.len() / 2].to_owned(),
        String::new(),
        "\0".repeat(100),
    ];
    machine.write(path, "{");
    for bad in damaged {
        fs::write(&copy, &bad).unwrap();
        let loaded = machine.restart();
        assert_eq!(names(&loaded), [], "{bad}");
        assert_eq!(loaded.problems.len(), 2, "{:?}", loaded.problems);
        let problem = loaded
            .problems
            .iter()
            .find(|problem| problem.file.as_ref() == Some(&copy));
        let message = &problem.unwrap().message;
        assert!(
            message.starts_with("the copy of a good profile is damaged, "),
            "{message}"
        );
    }
    fs::write(&copy, &text).unwrap();
    mode(&copy, 0o666);
    assert_eq!(names(&machine.restart()), [], "others may have written it");
    mode(&copy, 0o600);
    assert_eq!(names(&machine.restart()).len(), 1);
    machine.write(path, &declaration("a", "new"));
    fs::write(&copy, "").unwrap();
    assert_eq!(machine.restart().problems.len(), 1);
    assert_eq!(machine.restart().problems, [], "it is written anew");
}

#[test]
fn copies_are_roots_alone_and_no_more_than_files() {
    let machine = Machine::new();
    for id in ["a", "b"] {
        let path = format!("etc/policies/managed/{id}.json");
        machine.write(&path, &declaration(id, "x"));
    }
    machine.restart();
    let good = machine.root.path().join("state/good");
    let bits = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(bits(&good), 0o700);
    let before = copies(&machine);
    assert_eq!(
        before.iter().map(|path| bits(path)).collect::<Vec<_>>(),
        [0o600, 0o600]
    );
    fs::write(good.join(".new-left"), "").unwrap();
    fs::write(good.join("other.json"), "").unwrap();
    machine.restart();
    assert_eq!(copies(&machine), before);
    // What is the same is not written again.
    let written = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    let times: Vec<_> = before.iter().map(written).collect();
    machine.restart();
    assert_eq!(before.iter().map(written).collect::<Vec<_>>(), times);
    // A file that moves to another layer is another file.
    let managed = machine.config().join("policies/managed/b.json");
    fs::remove_file(managed).unwrap();
    machine.write("etc/policies/recommended/b.json", &declaration("b", "x"));
    machine.restart();
    assert_eq!(copies(&machine).len(), 2);
}

#[test]
fn a_state_directory_that_cannot_be_used_is_told() {
    let machine = Machine::new();
    machine.write("etc/policies/managed/a.json", &declaration("a", "x"));
    machine.write("state/good", "a file where a directory should be");
    let loaded = machine.restart();
    assert_eq!(names(&loaded).len(), 1);
    assert_eq!(loaded.problems.len(), 1, "{:?}", loaded.problems);
    assert_eq!(loaded.problems[0].code, Code::CannotBeApplied);
    fs::remove_file(machine.root.path().join("state/good")).unwrap();
    machine.restart();
    mode(&machine.root.path().join("state/good"), 0o777);
    let loaded = machine.restart();
    assert_eq!(names(&loaded).len(), 1);
    assert_eq!(loaded.problems[0].message, "cannot be read: has mode 0777");
}
