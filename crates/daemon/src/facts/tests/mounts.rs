use super::*;

use offramp_rules::Bundle;

/// Runs a shell's text, with `$1`, `$2`… as given, in mounts of its own, until it says a line.
fn in_other_mounts(text: &str, paths: &[&Path]) -> Running {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec", text, "sh"])
        .args(paths);
    let mut running = Running::start(&mut command);
    running.say("ready");
    running.wait_for_line();
    running
}

fn executable(facts: &Facts, running: &Running) -> Program {
    let app = facts.of_process(running.pid()).expect("it runs");
    app.executable.expect("it has one")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_other_mounts_say_counts_for_nothing() {
    let folder = Folder::new();
    let real = folder.program("real/app");
    let fake = folder.program("fake/prog");
    let seen = folder.program("real/seen");
    let rules = [exe(&real), exe(&fake)];
    let (facts, _) = facts(&rules.each_ref().map(String::as_str));
    // The host has another file there.
    let text = "mount --bind \"$2\" \"$1\"; exec \"$1\"";
    let running = in_other_mounts(text, &[&real, &fake]);
    let program = executable(&facts, &running);
    assert_eq!((program.name.as_deref(), program.path), (Some("app"), None));
    assert_eq!(program.known_as, BTreeSet::from([fake.clone()]));
    // The host has the same file there.
    let running = in_other_mounts("exec \"$1\"", &[&seen]);
    assert_eq!(executable(&facts, &running).path, Some(seen));
    // Deleted elsewhere.
    let text = "mount -t tmpfs none \"$(dirname \"$1\")\"; cp /usr/bin/cat \"$1\"
        exec 3<\"$1\"; rm \"$1\"; exec /proc/self/fd/3";
    let running = in_other_mounts(text, &[&real]);
    let program = executable(&facts, &running);
    assert_eq!((program.name.as_deref(), program.path), (Some("app"), None));
    assert!(program.known_as.is_empty());
    // A script is opened as its own process sees it.
    let script = folder.script("s/tool.sh", "#!/bin/sh\nread x; echo; read x\n");
    let text = "mount -t tmpfs none \"$(dirname \"$1\")\"; cp /usr/bin/cat \"$1\"; exec \"$2\"";
    let running = in_other_mounts(text, &[&real, &script]);
    let app = facts.of_process(running.pid()).expect("it runs");
    assert_eq!(app.script.and_then(|program| program.path), Some(script));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_link_of_the_host_is_no_mount_of_others() {
    let folder = Folder::new();
    let real = folder.program("real/app");
    let (facts, _) = facts(&[&exe(&real)]);
    let parent = folder.at("real");
    std::os::unix::fs::symlink(&parent, folder.at("ground/link")).expect("there is room");
    let text = "mount -t tmpfs none \"$2\"; mkdir \"$2/link\"
        mount --bind \"$1\" \"$2/link\"; exec \"$2/link/app\"";
    let running = in_other_mounts(text, &[&parent, &folder.at("ground")]);
    assert_eq!(executable(&facts, &running).path, None);
    assert!(!process::is_among_files_of_host(running.pid()));
    assert!(process::is_among_files_of_host(std::process::id()));
}

/// Undoes a mount.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], point: &Path) -> Self {
        let done = Command::new("mount").args(arguments).arg(point).status();
        assert!(done.is_ok_and(|status| status.success()), "{arguments:?}");
        Self(point.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-l".as_ref(), self.0.as_os_str()])
            .status();
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_file_bound_elsewhere_is_the_same_file() {
    let folder = Folder::new();
    let app = folder.program("app");
    let other = folder.program("other");
    let (facts, _) = facts(&[&exe(&app)]);
    let _mounted = Mounted::new(&["--bind", app.to_str().expect("it is text")], &other);
    let running = Running::start(&mut Command::new(&other));
    let program = executable(&facts, &running);
    assert_eq!(program.path.as_ref(), Some(&other));
    assert_eq!(program.known_as, BTreeSet::from([app.clone()]));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn layers_have_files_of_their_own() {
    let folder = Folder::new();
    let ground = folder.at("ground");
    fs::create_dir(&ground).expect("there is room");
    let _ground = Mounted::new(&["-t", "tmpfs", "none"], &ground);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(ground.join(name)).expect("there is room");
    }
    let lower = folder.program("ground/lower/app");
    let point = ground.join("merged");
    let at = |name: &str| ground.join(name).display().to_string();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        at("lower"),
        at("upper"),
        at("work")
    );
    let mounted = Mounted::new(&["-t", "overlay", "none", "-o", &options], &point);
    let merged = point.join("app");
    let (facts, _) = facts(&[&exe(&merged)]);
    let running = Running::start(&mut Command::new(&merged));
    let program = executable(&facts, &running);
    assert_eq!(program.path.as_ref(), Some(&merged));
    assert_eq!(program.known_as, BTreeSet::from([merged.clone()]));
    let below = Running::start(&mut Command::new(&lower));
    assert!(executable(&facts, &below).known_as.is_empty());
    // An upgrade writes the upper layer.
    fs::remove_file(&merged).expect("it is there");
    fs::copy("/usr/bin/cat", &merged).expect("there is room");
    let program = executable(&facts, &running);
    assert_eq!(program.known_as, BTreeSet::from([merged.clone()]));
    drop((running, below, mounted));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn subvolumes_have_equal_numbers() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new();
    let image = folder.at("image");
    let file = fs::File::create(&image).expect("there is room");
    file.set_len(256 << 20).expect("there is room");
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let done = Command::new(program).args(arguments).output();
        assert!(done.is_ok_and(|done| done.status.success()), "{program}");
    };
    run("mkfs.btrfs", &["-q".as_ref(), image.as_os_str()]);
    let point = folder.at("point");
    fs::create_dir(&point).expect("there is room");
    let _mounted = Mounted::new(&["-o", "loop", image.to_str().expect("it is text")], &point);
    let mut apps = Vec::new();
    for name in ["a", "b"] {
        let volume = point.join(name);
        let command = ["subvolume".as_ref(), "create".as_ref(), volume.as_os_str()];
        run("btrfs", &command);
        let app = volume.join("app");
        fs::copy("/usr/bin/cat", &app).expect("there is room");
        apps.push(app);
    }
    let number = |app: &PathBuf| fs::metadata(app).expect("it is there").ino();
    assert_eq!(number(&apps[0]), number(&apps[1]));
    let (facts, _) = facts(&[&exe(&apps[0])]);
    for (app, known) in [
        (&apps[0], BTreeSet::from([apps[0].clone()])),
        (&apps[1], BTreeSet::new()),
    ] {
        let running = Running::start(&mut Command::new(app));
        let program = executable(&facts, &running);
        assert_eq!(program.path.as_ref(), Some(app));
        assert_eq!(program.known_as, known);
    }
}

/// A root folder with the host's /usr and what is given.
const OTHER_ROOT: &str =
    "mount -t tmpfs none \"$1\"; mkdir \"$1/usr\"; mount --rbind /usr \"$1/usr\"
    for name in bin lib lib64; do ln -s \"usr/$name\" \"$1/$name\"; done
    cp \"$2\" \"$1/.flatpak-info\"; cp \"$3\" \"$1/tool\"
    exec chroot \"$1\" ";

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_flatpak_tells_its_name_in_its_root() {
    let folder = Folder::new();
    let root = folder.at("root");
    fs::create_dir(&root).expect("there is room");
    let about = folder.script("about", "[Application]\nname=org.example.App\n");
    let tool = folder.script("tool", "#!/bin/sh\nread x; echo; read x\n");
    let (facts, _) = facts(&[]);
    let text = format!("{OTHER_ROOT} /usr/bin/cat");
    let running = in_other_mounts(&text, &[&root, &about, &tool]);
    let app = facts.of_process(running.pid()).expect("it runs");
    let expected = Bundle::Flatpak("org.example.App".to_owned());
    assert_eq!(app.bundles, BTreeSet::from([expected]));
    // The script is in that root alone.
    let text = format!("{OTHER_ROOT} /tool");
    let running = in_other_mounts(&text, &[&root, &about, &tool]);
    let app = facts.of_process(running.pid()).expect("it runs");
    let script = app.script.expect("it runs one");
    assert_eq!((script.name.as_deref(), script.path), (Some("tool"), None));
    assert!(script.owner.is_some());
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_changed_root_does_not_change_the_path() {
    let folder = Folder::new();
    let root = folder.at("root");
    fs::create_dir_all(root.join("opt")).expect("there is room");
    let mounts = ["/usr", "/lib", "/lib64", "/proc"].map(Path::new);
    let bound: Vec<Mounted> = mounts
        .iter()
        .filter(|host| host.exists())
        .map(|host| {
            let point = folder.at(&format!("root{}", host.display()));
            fs::create_dir(&point).expect("there is room");
            Mounted::new(&["--rbind", host.to_str().expect("it is text")], &point)
        })
        .collect();
    let app = folder.program("root/opt/app");
    let (facts, _) = facts(&[&exe(&app)]);
    let mut command = Command::new("chroot");
    let mut running = Running::start(command.args([&root, Path::new("/opt/app")]));
    running.say("ready");
    running.wait_for_line();
    let program = executable(&facts, &running);
    assert_eq!(program.path.as_ref(), Some(&app));
    assert_eq!(program.known_as, BTreeSet::from([app.clone()]));
    drop((running, bound));
}
