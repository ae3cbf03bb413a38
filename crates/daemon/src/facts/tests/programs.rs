use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

fn executable(facts: &Facts, running: &Running) -> Program {
    let app = facts.of_process(running.pid()).expect("it runs");
    app.executable.expect("it has one")
}

#[test]
fn a_process_knows_itself() {
    let facts = Facts::new();
    let app = facts.of_process(std::process::id()).expect("this one runs");
    let path = std::env::current_exe().expect("there is one");
    assert_eq!(app.executable.and_then(|program| program.path), Some(path));
    assert_eq!(app.user.id, nix::unistd::getuid().as_raw());
    let all = facts.processes();
    let own = all.iter().find(|process| process.pid == std::process::id());
    assert!(own.is_some_and(|process| process.is_ours && process.parent > 0));
    assert_eq!(facts.of_process(u32::MAX >> 1), None);
}

#[test]
fn a_path_is_the_program_that_it_leads_to() {
    let facts = Facts::new();
    let app = facts
        .of_path(Path::new("/bin/sh"), 0)
        .expect("there is one");
    assert_eq!((app.user.id, app.script), (0, None));
    assert!(app.executable.is_some_and(|program| program.path.is_some()));
    assert!(facts.of_path(Path::new("/dev/null"), 0).is_err());
}

#[test]
fn links_lead_to_a_file_and_copies_do_not() {
    let folder = Folder::new();
    let app = folder.program("a/app");
    let copy = folder.program("b/app");
    let hard = folder.at("c/other");
    fs::hard_link(&app, &hard).expect("one file system");
    let soft = folder.at("d/link");
    std::os::unix::fs::symlink("../a/app", &soft).expect("there is room");
    let rules = [exe(&app), exe(&soft)];
    let (facts, interest) = facts(&rules.each_ref().map(String::as_str));
    assert!(interest.files.contains(&id_of(&app)));
    for name in ["app", "link"] {
        assert!(interest.executables.contains(name), "{name}");
    }
    let known = BTreeSet::from([app.clone(), soft.clone()]);
    for (start, path, expected) in [
        (&app, &app, &known),
        (&soft, &app, &known),
        (&hard, &hard, &known),
        (&copy, &copy, &BTreeSet::new()),
    ] {
        // What a program says of itself counts for nothing.
        let running = Running::start(Command::new(start).arg0("/usr/bin/firefox"));
        let program = executable(&facts, &running);
        assert_eq!(program.path.as_ref(), Some(path), "{start:?}");
        assert_eq!(
            program.name.as_deref(),
            path.file_name().and_then(|name| name.to_str())
        );
        assert_eq!(program.known_as, *expected, "{start:?}");
    }
}

#[test]
fn the_name_of_a_thread_counts_for_nothing() {
    let (facts, _) = facts(&["exe:firefox"]);
    let script = "echo firefox > /proc/self/comm; echo; read x";
    let running = Running::start_and_wait(Command::new("/bin/sh").args(["-c", script]));
    let program = executable(&facts, &running);
    assert_ne!(program.name.as_deref(), Some("firefox"));
    assert!(program.known_as.is_empty());
}

#[test]
fn a_deleted_file_is_what_was_at_its_place() {
    let folder = Folder::new();
    let app = folder.program("lib/app");
    let link = folder.at("bin/app");
    std::os::unix::fs::symlink(&app, &link).expect("there is room");
    let (facts, _) = facts(&[&exe(&link)]);
    let running = Running::start(&mut Command::new(&link));
    // As an upgrade does.
    let new = folder.program("lib/app.new");
    fs::rename(new, &app).expect("one folder");
    let check = |facts: &Facts| {
        let program = executable(facts, &running);
        assert_eq!(program.path.as_ref(), Some(&app));
        assert_eq!(program.name.as_deref(), Some("app"));
        assert_eq!(program.known_as, BTreeSet::from([link.clone()]));
    };
    check(&facts);
    assert!(
        facts
            .refresh()
            .is_some_and(|now| now.files.contains(&id_of(&app)))
    );
    check(&facts);
    fs::remove_file(&app).expect("it is there");
    check(&facts);
}

#[test]
fn a_file_may_have_the_name_of_a_deleted_one() {
    let folder = Folder::new();
    let app = folder.program("app (deleted)");
    let bare = folder.program("app");
    let (facts, _) = facts(&[&exe(&bare)]);
    let running = Running::start(&mut Command::new(&app));
    let program = executable(&facts, &running);
    assert_eq!(program.path.as_ref(), Some(&app));
    assert!(program.known_as.is_empty());
    fs::remove_file(&app).expect("it is there");
    let program = executable(&facts, &running);
    assert_eq!(program.path.as_ref(), Some(&app));
    assert!(program.known_as.is_empty());
}

#[test]
fn a_file_in_memory_has_a_name_alone() {
    let memory = memfd_create(c"firefox", MFdFlags::empty()).expect("there is memory");
    let own = format!("/proc/self/fd/{}", memory.as_raw_fd());
    fs::write(&own, fs::read("/usr/bin/cat").expect("there is cat")).expect("there is room");
    let reader = fs::File::open(&own).expect("it is there");
    nix::fcntl::fcntl(
        &reader,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .expect("it is open");
    drop(memory);
    let (facts, _) = facts(&["exe:firefox"]);
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let running = Running::start(&mut Command::new(path));
    let program = executable(&facts, &running);
    assert_eq!(program.name.as_deref(), Some("memfd:firefox"));
    assert_eq!((program.path, program.known_as), (None, BTreeSet::new()));
}

#[test]
fn hashes_and_owners_are_told_where_rules_ask() {
    let folder = Folder::new();
    let app = folder.program("app");
    let other = folder.program("other");
    let mut asking = rule(&exe(&app));
    asking.requirement = Some(offramp_rules::Requirement::And(
        Box::new(offramp_rules::Requirement::Sha256([0; 32])),
        Box::new(offramp_rules::Requirement::Owner("root".to_owned())),
    ));
    let facts = Facts::new();
    facts.learn(&profiles(vec![asking]));
    let of = |path: &Path| {
        let app = facts.of_path(path, 0).expect("it is there");
        app.executable.expect("it has one")
    };
    let content = fs::read(&app).expect("it is there");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content);
    assert_eq!(
        of(&app).sha256.as_ref().map(<[u8; 32]>::as_slice),
        Some(hash.as_ref())
    );
    assert_eq!(of(&app).owner, Some(nix::unistd::getuid().as_raw()));
    assert_eq!(
        of(Path::new("/usr/bin/cat")).owner_name.as_deref(),
        Some("root")
    );
    assert_eq!(of(&other).sha256, None);
    fs::write(&app, b"changed").expect("there is room");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"changed");
    assert_eq!(
        of(&app).sha256.as_ref().map(<[u8; 32]>::as_slice),
        Some(hash.as_ref())
    );
}
