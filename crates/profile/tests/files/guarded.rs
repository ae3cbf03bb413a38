//! Whose files count, and what is never waited for.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use offramp_profile::{Asset, CredentialError, Credentials, install};
use offramp_rules::Layer;

use crate::machine::{Machine, declaration, mode, names, told};

const LAYERS: [(&str, Layer); 4] = [
    ("etc/policies/managed", Layer::Managed),
    ("etc/policies/recommended", Layer::Recommended),
    ("vendor/managed", Layer::Vendor),
    ("vendor/recommended", Layer::Vendor),
];

#[test]
fn files_that_others_may_write_do_not_count() {
    for (directory, layer) in LAYERS {
        let machine = Machine::new();
        let path = machine.write(&format!("{directory}/a.json"), &declaration("a", "x"));
        for (bits, counts) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            mode(&path, bits);
            let loaded = machine.load(None);
            assert_eq!(
                names(&loaded).len(),
                usize::from(counts),
                "{layer} {bits:o}"
            );
            assert_eq!(loaded.problems.is_empty(), counts);
        }
    }
}

#[test]
fn directories_that_others_may_write_do_not_count() {
    for (directory, layer) in LAYERS {
        let machine = Machine::new();
        machine.write(&format!("{directory}/a.json"), &declaration("a", "x"));
        let root = machine.root.path();
        let mut above = root.join(directory);
        while above != *root {
            for bits in [0o775, 0o777, 0o1777] {
                mode(&above, bits);
                let loaded = machine.load(None);
                assert!(loaded.profiles.is_empty(), "{layer} {}", above.display());
                let said = told(&machine, &loaded);
                assert_eq!(said.len(), 1, "{said:?}");
                assert!(
                    said[0].contains(&format!("the directory has mode {bits:04o}")),
                    "{said:?}"
                );
            }
            mode(&above, 0o755);
            above.pop();
        }
        assert_eq!(names(&machine.load(None)).len(), 1);
    }
}

#[test]
fn a_link_leads_only_where_nobody_else_puts_files() {
    for (directory, layer) in LAYERS {
        let machine = Machine::new();
        let real = machine.write("elsewhere/real.json", &declaration("a", "x"));
        let link = machine.write(&format!("{directory}/b.json"), &declaration("b", "y"));
        let link = link.with_file_name("a.json");
        symlink(&real, &link).unwrap();
        assert_eq!(names(&machine.load(None)).len(), 2, "{layer}");
        let elsewhere = real.parent().unwrap();
        mode(elsewhere, 0o777);
        let loaded = machine.load(None);
        assert_eq!(names(&loaded).len(), 1, "{layer}");
        assert!(
            loaded.problems[0]
                .message
                .contains("elsewhere, which has mode 0777")
        );
        mode(elsewhere, 0o1777);
        assert_eq!(
            names(&machine.load(None)).len(),
            2,
            "in a sticky directory it stays"
        );
        mode(elsewhere, 0o755);
        mode(&real, 0o666);
        assert_eq!(names(&machine.load(None)).len(), 1);
        fs::remove_file(&real).unwrap();
        assert_eq!(names(&machine.load(None)).len(), 1, "a link to nothing");
        symlink(&link, &real).unwrap();
        assert_eq!(names(&machine.load(None)).len(), 1, "a link to itself");
    }
}

#[test]
fn nothing_is_waited_for() {
    for (directory, layer) in LAYERS {
        let machine = Machine::new();
        let good = machine.write(&format!("{directory}/z.json"), &declaration("z", "x"));
        let folder = good.parent().unwrap();
        mkfifo(&folder.join("fifo.json"), Mode::from_bits_truncate(0o600)).unwrap();
        fs::create_dir(folder.join("directory.json")).unwrap();
        symlink("/dev/zero", folder.join("device.json")).unwrap();
        symlink("/dev/tty", folder.join("terminal.json")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket.json")).unwrap();
        let loaded = machine.load(None);
        assert_eq!(names(&loaded).len(), 1, "{layer}");
        assert_eq!(loaded.problems.len(), 5, "{:?}", loaded.problems);
        for problem in &loaded.problems {
            assert_eq!(problem.message, "is no regular file");
        }
    }
    let machine = Machine::new();
    let folder = machine.write("etc/policies/managed/z.json", &declaration("z", "x"));
    mkfifo(
        &folder.with_file_name("fifo.json"),
        Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    install(&machine.config(), Layer::Managed, &declaration("new", "x")).unwrap();
    let fifo = machine
        .write("etc/credentials/x", "")
        .with_file_name("fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    let error = Credentials::open(&machine.config())
        .password(&Asset::Credential("fifo".to_owned()))
        .unwrap_err();
    assert!(matches!(error, CredentialError::Exposed { .. }));
}

#[test]
fn huge_files_are_not_read_to_their_end() {
    let machine = Machine::new();
    let path = machine.write("etc/policies/managed/a.json", "");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let loaded = machine.load(None);
    assert_eq!(loaded.problems.len(), 1);
    assert!(
        loaded.problems[0].message.contains("1024 KiB"),
        "{:?}",
        loaded.problems
    );
    let path = machine.write("etc/credentials/x", "");
    mode(&path, 0o600);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = Credentials::open(&machine.config())
        .password(&Asset::Credential("x".to_owned()))
        .unwrap_err();
    assert!(error.to_string().ends_with("is over 1024 KiB"), "{error}");
}
