use super::*;

const WAIT: &str = "echo; read x";

fn script(facts: &Facts, running: &Running) -> Option<Program> {
    facts.of_process(running.pid()).expect("it runs").script
}

#[test]
fn a_script_is_told_however_it_is_run() {
    let folder = Folder::new();
    let path = folder.script("bin/tool.sh", &format!("#!/bin/sh -e\n{WAIT}\n"));
    let link = folder.at("link");
    std::os::unix::fs::symlink(&path, &link).expect("there is room");
    let (facts, interest) = facts(&[&exe(&path)]);
    let shell = fs::canonicalize("/bin/sh").expect("there is one");
    assert!(interest.files.contains(&id_of(&shell)));
    assert!(interest.executables.contains("sh"));
    let here = || {
        let mut command = Command::new("sh");
        command.current_dir(folder.path.join("bin"));
        command
    };
    let commands = [
        Command::new(&path),
        Command::new(&link),
        {
            let mut command = here();
            command.arg("tool.sh");
            command
        },
        {
            let mut command = here();
            command.args(["-eu", "-o", "nounset", "./../bin/tool.sh", "-c"]);
            command
        },
    ];
    for mut command in commands {
        let running = Running::start_and_wait(&mut command);
        let found = script(&facts, &running).unwrap_or_else(|| panic!("{command:?}"));
        assert_eq!(found.path.as_ref(), Some(&path), "{command:?}");
        assert_eq!(found.known_as, BTreeSet::from([path.clone()]));
        let app = facts.of_process(running.pid()).expect("it runs");
        assert_eq!(
            app.executable.and_then(|found| found.path).as_ref(),
            Some(&shell)
        );
    }
    let running = Running::start_and_wait(Command::new("sh").args(["-c", WAIT, "tool.sh"]));
    assert_eq!(script(&facts, &running), None);
}

#[test]
fn a_script_may_have_an_interpreter_of_its_own() {
    let folder = Folder::new();
    let interpreter = folder.program("mine");
    let path = folder.script("text", &format!("#!{}\nx\n", interpreter.display()));
    let (facts, interest) = facts(&[&exe(&path)]);
    assert!(interest.files.contains(&id_of(&interpreter)));
    // What prints a file stops where nobody reads.
    let mut command = Command::new(&path);
    command.arg("-");
    let running = Running::start_and_wait(&mut command);
    let found = script(&facts, &running).expect("it runs");
    assert_eq!(found.path.as_ref(), Some(&path));
    let program = Running::start(Command::new(&interpreter).arg("-"));
    assert_eq!(script(&facts, &program), None);
}

#[test]
fn names_of_scripts_ask_for_what_runs_them() {
    let (_, interest) = facts(&["exe:tool.py"]);
    for name in ["tool.py", "python3", "python3.11"] {
        assert!(interest.executables.contains(name), "{name}");
    }
    assert!(!interest.executables.contains("perl"));
}

#[test]
fn a_path_may_be_a_script() {
    let folder = Folder::new();
    let path = folder.script("tool", "#!/usr/bin/env sh\n");
    let (facts, _) = facts(&[]);
    let app = facts.of_path(&path, 0).expect("it is there");
    assert_eq!(app.script.and_then(|found| found.path), Some(path));
    let shell = fs::canonicalize("/bin/sh").expect("there is one");
    assert_eq!(app.executable.and_then(|found| found.path), Some(shell));
}

/// The loader that /bin/sh is linked with, by a path that leads to it.
fn loader() -> PathBuf {
    let folders = ["/lib64", "/lib"].map(|folder| fs::read_dir(folder).into_iter().flatten());
    let files = folders.into_iter().flatten().flatten();
    let is_it = |name: &str| name.starts_with("ld-linux-") || name.starts_with("ld-musl-");
    let mut paths = files.map(|file| file.path());
    paths
        .find(|path| file::name_of(path).is_some_and(|name| is_it(&name)))
        .expect("there is one")
}

#[test]
fn a_loader_runs_what_it_is_given() {
    let folder = Folder::new();
    let app = folder.program("app");
    let (facts, interest) = facts(&[&exe(&app)]);
    assert!(interest.files.contains(&id_of(&loader())));
    assert!(interest.executables.contains("ld.so"));
    let arguments = ["--argv0".as_ref(), "other".as_ref(), app.as_os_str()];
    let mut running = Running::start(Command::new(loader()).args(arguments).arg("-"));
    // Its arguments are there a moment after the loader is.
    running.say("ready");
    running.wait_for_line();
    let found = facts.of_process(running.pid()).expect("it runs");
    let program = found.script.clone().expect("it is given one");
    assert_eq!(program.path.as_ref(), Some(&app));
    assert_eq!(program.known_as, BTreeSet::from([app.clone()]));
    let by = loader();
    let by = by.to_str().expect("it is text");
    assert!(!facts.is_settled_by(by, id_of(&loader()), &found));
    let alone = facts.of_path(&loader(), 0).expect("it is there");
    assert!(!facts.is_settled_by(by, id_of(&loader()), &alone));
}

#[test]
fn a_loader_runs_scripts_with_their_interpreter() {
    let folder = Folder::new();
    let path = folder.script("tool.sh", WAIT);
    let (facts, _) = facts(&[&exe(&path)]);
    let shell = fs::canonicalize("/bin/sh").expect("there is one");
    let running = Running::start_and_wait(Command::new(loader()).arg(&shell).arg(&path));
    let app = facts.of_process(running.pid()).expect("it runs");
    assert_eq!(app.script.and_then(|found| found.path), Some(path));
    let executable = app.executable.expect("it has one");
    assert_eq!(executable.path, Some(shell.clone()));
    let running = Running::start_and_wait(Command::new(loader()).arg(&shell).args(["-c", WAIT]));
    let app = facts.of_process(running.pid()).expect("it runs");
    assert_eq!(app.script.and_then(|found| found.path), Some(shell));
}

#[test]
fn no_loader_is_asked_about_without_programs() {
    let (_, interest) = facts(&["unit:some.service"]);
    assert!(interest.executables.is_empty() && interest.files.is_empty());
}
