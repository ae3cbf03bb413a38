//! Files of profiles: bad ones, those that others may write, those that hide others.

use std::os::unix::fs::{PermissionsExt, chown, symlink};

use offramp_tests::{Daemon, Gateway, Lab, PROFILE, Person, Way, wait_until};

use super::{LIMIT, NOBODY, profile, relayed, wait_without, way};

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_bad_file_keeps_what_it_last_said() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start_with(&lab, &[profile(PROFILE, &["exe:app"])]);
    let root = Person::new(&lab, 0);
    assert_eq!(way(&lab, &daemon, &root, "app"), relayed(PROFILE));
    daemon.write("policies/managed/0.json", "{ \"Type\": 7");
    wait_until("the problem is told", LIMIT, || {
        daemon.status()["problems"].to_string().contains("0.json")
    });
    assert_eq!(way(&lab, &daemon, &root, "app"), relayed(PROFILE));
    for _ in 0..2 {
        daemon.start_again();
        let problems = daemon.status()["problems"].to_string();
        assert!(problems.contains("0.json"), "{problems}");
        assert_eq!(way(&lab, &daemon, &root, "app"), relayed(PROFILE));
    }
    daemon.stop();
    std::fs::remove_file(daemon.config("policies/managed/0.json")).expect("it is ours");
    daemon.start_unconnected();
    wait_without(&daemon, PROFILE);
    assert_eq!(way(&lab, &daemon, &root, "app"), Way::Direct);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn files_that_others_may_write_are_refused() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::prepare(&lab);
    daemon.write(
        "policies/managed/good.json",
        &profile(PROFILE, &["exe:good"]).to_string(),
    );
    for name in ["open", "given", "linked", "pipe"] {
        let profile = profile(&format!("test.{name}"), &[&format!("exe:{name}")]);
        let file = format!("policies/managed/{name}.json");
        let path = daemon.config(&file);
        match name {
            "pipe" => {
                let path = path.display().to_string();
                lab.client().run(&["mkfifo", "-m", "600", &path]).success();
            }
            "linked" => {
                let target = lab.directory().join("linked.json");
                std::fs::write(&target, profile.to_string()).expect("the directory is ours");
                chown(&target, Some(NOBODY), Some(NOBODY)).expect("root may do this");
                symlink(target, path).expect("the directory is ours");
            }
            "given" => {
                daemon.write(&file, &profile.to_string());
                chown(path, Some(NOBODY), None).expect("root may do this");
            }
            _ => {
                daemon.write(&file, &profile.to_string());
                let mode = PermissionsExt::from_mode(0o666);
                std::fs::set_permissions(path, mode).expect("it is ours");
            }
        }
    }
    daemon.start_again();
    let root = Person::new(&lab, 0);
    assert_eq!(way(&lab, &daemon, &root, "good"), relayed(PROFILE));
    let problems = daemon.status()["problems"].to_string();
    for name in ["open", "given", "linked", "pipe"] {
        assert_eq!(way(&lab, &daemon, &root, name), Way::Direct, "{name}");
        assert!(
            problems.contains(&format!("{name}.json")),
            "{name}: {problems}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_machine_masks_what_a_package_brings() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let space = lab.directory().join("space").display().to_string();
    // The package's folder is seen by the client machine alone.
    lab.client().sh(&format!(
        "mkdir {space}; mount -t tmpfs tmpfs {space}; mkdir {space}/upper {space}/work
         mount -t overlay overlay /usr/lib \
             -o lowerdir=/usr/lib,upperdir={space}/upper,workdir={space}/work
         mkdir -p /usr/lib/offramp/policies/managed"
    ));
    for name in ["off", "other", "kept"] {
        let profile = profile(&format!("test.{name}"), &[&format!("exe:{name}")]);
        let file = lab.directory().join("vendor.json");
        std::fs::write(&file, profile.to_string()).expect("the directory is ours");
        lab.client().sh(&format!(
            "install -m 644 {} /usr/lib/offramp/policies/managed/{name}.json",
            file.display()
        ));
    }
    let mut daemon = Daemon::prepare(&lab);
    symlink("/dev/null", daemon.config("policies/managed/off.json")).expect("it is ours");
    let instead = profile("test.instead", &["exe:instead"]);
    daemon.write("policies/managed/other.json", &instead.to_string());
    daemon.start_again();
    let root = Person::new(&lab, 0);
    assert_eq!(way(&lab, &daemon, &root, "kept"), relayed("test.kept"));
    assert_eq!(
        way(&lab, &daemon, &root, "instead"),
        relayed("test.instead")
    );
    assert_eq!(way(&lab, &daemon, &root, "off"), Way::Direct);
    assert_eq!(way(&lab, &daemon, &root, "other"), Way::Direct);
}
