use super::*;

/// An event as the kernel makes it.
fn event<'a>(pid: u32, file: FileId, filename: &'a str, arguments: &'a [String]) -> Start<'a> {
    Start {
        pid,
        uid: 4711,
        gid: 4712,
        cgroup: 0,
        file,
        filename,
        arguments,
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is text")
}

fn path_of(program: Option<&Program>) -> Option<&Path> {
    program.and_then(|program| program.path.as_deref())
}

#[test]
fn an_event_says_whose_and_what() {
    let folder = Folder::new();
    let app = folder.program("app");
    let (facts, _) = facts(&[&exe(&app)]);
    let running = Running::start(&mut Command::new(&app));
    let found = facts
        .of_start(&event(running.pid(), id_of(&app), "./app", &[]))
        .expect("it runs");
    assert_eq!(found.user.id, 4711);
    assert!(found.user.groups.contains(&4712));
    assert_eq!(path_of(found.executable.as_ref()), Some(app.as_path()));
}

#[test]
fn arguments_are_those_of_the_event() {
    let folder = Folder::new();
    let path = folder.script("tool", "#!/bin/sh\necho; read x\n");
    let (facts, _) = facts(&[&exe(&path)]);
    let shell = id_of(Path::new("/bin/sh"));
    // It has other arguments by now.
    let running = Running::start(Command::new("/bin/sh").args(["-c", "read x"]));
    let arguments = ["/bin/sh", text(&path)].map(str::to_owned);
    for filename in [text(&path), "/bin/sh"] {
        let found = facts.of_start(&event(running.pid(), shell, filename, &arguments));
        let script = found.and_then(|app| app.script).expect("there is one");
        assert_eq!(script.path.as_ref(), Some(&path));
    }
    // It is in another folder by now: the name is what is left.
    let arguments = ["/bin/sh", "sub/gone.sh"].map(str::to_owned);
    let found = facts.of_start(&event(running.pid(), shell, "sub/gone.sh", &arguments));
    let script = found.and_then(|app| app.script).expect("there is one");
    assert_eq!(
        (script.name.as_deref(), script.path),
        (Some("gone.sh"), None)
    );
}

/// The first 512 octets of the arguments, as an event has them.
fn cut(arguments: &[&str]) -> Vec<String> {
    let mut all = arguments.join("\0") + "\0";
    all.truncate(512);
    let all = all.strip_suffix('\0').unwrap_or(&all);
    all.split('\0').map(str::to_owned).collect()
}

#[test]
fn arguments_that_an_event_cuts_are_those_of_the_process() {
    let folder = Folder::new();
    let wait = "echo; read x\n";
    let near = folder.script("tool.sh", wait);
    let far = folder.at(&format!("{0}/{0}/{0}/tool.sh", "d".repeat(180)));
    fs::write(&far, wait).expect("there is room");
    let (facts, _) = facts(&[&exe(&near)]);
    let shell = id_of(Path::new("/bin/sh"));
    let options = ["/bin/sh", "-e"].into_iter().chain(["-u"; 200]);
    let options: Vec<_> = options.collect();
    for (options, script) in [(&options[..], &near), (&options[..1], &far)] {
        let all = [options, &[text(script)]].concat();
        let running = Running::start_and_wait(Command::new("/bin/sh").args(&all[1..]));
        let told = cut(&all);
        let found = facts.of_start(&event(running.pid(), shell, "/bin/sh", &told));
        assert_eq!(
            path_of(found.and_then(|app| app.script).as_ref()),
            Some(script.as_path())
        );
        // Nobody knows what it ran: neither that it was a script nor that it was none.
        let gone = event(u32::MAX >> 1, shell, "/bin/sh", &told);
        assert_eq!(facts.of_start(&gone), None);
        let other = Running::start_and_wait(Command::new("/bin/sh").args(["-c", wait]));
        let changed = event(other.pid(), shell, "/bin/sh", &told);
        assert_eq!(facts.of_start(&changed), None);
    }
    // What comes before the cut may be enough.
    let long = "x".repeat(600);
    for (all, expected) in [
        (["/bin/sh", text(&near), &long], Some(near.as_path())),
        (["/bin/sh", "-c", &long], None),
    ] {
        let told = cut(&all);
        let found = facts.of_start(&event(u32::MAX >> 1, shell, "/bin/sh", &told));
        assert_eq!(
            path_of(found.expect("it is known").script.as_ref()),
            expected
        );
    }
}

#[test]
fn a_process_may_have_gone_on() {
    let folder = Folder::new();
    let app = folder.program("app");
    let script = folder.script("tool", "#!/bin/sh\n");
    let other = folder.program("other");
    let (facts, _) = facts(&[&exe(&app)]);
    let running = Running::start(&mut Command::new(&other));
    let gone = u32::MAX >> 1;
    for pid in [running.pid(), gone] {
        let of = |file, filename: &str, arguments: &[String]| {
            facts.of_start(&event(pid, file, filename, arguments))
        };
        // The path is of this file, or rules know the file.
        for filename in [text(&app), "./app"] {
            let found = of(id_of(&app), filename, &[]).expect("it is known");
            assert_eq!(path_of(found.executable.as_ref()), Some(app.as_path()));
        }
        let arguments = ["/bin/sh".to_owned(), text(&script).to_owned()];
        let found = of(id_of(Path::new("/bin/sh")), text(&script), &arguments);
        let found = found.expect("its interpreter is found");
        assert_eq!(path_of(found.script.as_ref()), Some(script.as_path()));
        // Nothing tells what it was.
        let mut unknown = id_of(&app);
        unknown.inode += 1_000_000_007;
        assert_eq!(of(unknown, text(&app), &[]), None);
        assert_eq!(of(unknown, "app", &[]), None);
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_process_was_where_the_event_says() {
    use std::os::unix::fs::MetadataExt;
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("there is /proc");
    let mount = mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .expect("cgroup2 is mounted");
    let name = format!("offramp-facts-{}", std::process::id());
    let group = Path::new(mount).join(&name);
    fs::create_dir(&group).expect("root may");
    let number = fs::metadata(&group).expect("it is there").ino();
    let (facts, _) = facts(&[]);
    let running = Running::start(&mut Command::new("/usr/bin/cat"));
    let file = id_of(Path::new("/usr/bin/cat"));
    let place = |app: Option<App>| {
        app.and_then(|app| app.cgroup)
            .map(|cgroup| cgroup.to_string())
    };
    let before = place(facts.of_process(running.pid()));
    let expected = Some(format!("/{name}"));
    let mut event = event(running.pid(), file, "/usr/bin/cat", &[]);
    event.cgroup = number;
    let was = place(facts.of_start(&event));
    let join = |group: &Path| fs::write(group.join("cgroup.procs"), running.pid().to_string());
    join(&group).expect("root may");
    let now = place(facts.of_process(running.pid()));
    let told = place(facts.of_start(&event));
    event.pid = u32::MAX >> 1;
    let gone = place(facts.of_start(&event));
    drop(running);
    fs::remove_dir(&group).expect("it is empty");
    assert_ne!(before, expected);
    assert_eq!([was, now, told, gone], [0; 4].map(|_| expected.clone()));
}
