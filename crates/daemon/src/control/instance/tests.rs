use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

struct Running(Child);

impl Running {
    /// Waits for its first line.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

#[test]
fn a_script_leads_to_what_it_is_there_for() {
    let firefox = "#!/bin/sh\nexec /usr/lib/firefox-esr/firefox-esr \"$@\"\n";
    for (script, text, path, leads) in [
        (
            "/usr/bin/firefox",
            firefox,
            "/usr/lib/firefox-esr/firefox-esr",
            true,
        ),
        (
            "/usr/bin/firefox",
            firefox,
            "/usr/lib/firefox-esr/firefox",
            false,
        ),
        ("/usr/bin/chromium", "", "/usr/lib/chromium/chromium", true),
        (
            "/usr/bin/chromium",
            "",
            "/usr/lib/chromium/chrome-sandbox",
            false,
        ),
        ("/usr/bin/chromium", "/usr/bin/gdb", "/usr/bin/gdb", false),
        (
            "/opt/google/chrome/google-chrome",
            "",
            "/opt/google/chrome/chrome",
            true,
        ),
        ("/usr/bin/a", "", "/usr/bin/b", false),
        ("/usr/bin/code", "", "/usr/share/code/code", true),
    ] {
        let found = leads_to(Path::new(script), text, Path::new(path));
        assert_eq!(found, leads, "{script} {path}");
    }
}

#[test]
fn an_instance_is_found_and_whether_it_listens() {
    let facts = Facts::new();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let script = folder.join("single");
    std::fs::write(
        &script,
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\n\
         if sys.argv[2] == 'listen': s.listen()\nprint('up', flush=True)\nsys.stdin.read()\n",
    )
    .unwrap();
    let text = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&script, format!("#!/usr/bin/python3\n{text}")).unwrap();
    let program = Program::read(&facts, &script, uid()).unwrap();
    let start = |name: &str, how: &str| {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(&script).arg(folder.join(name)).arg(how);
        Running::start(command.stdin(Stdio::piped()))
    };
    let (quiet, loud) = (start("a", "quiet"), start("b", "listen"));
    let found = processes::find(&facts, uid(), 0, &program);
    let seen: Vec<_> = found.iter().map(|one| (one.pid, one.listens)).collect();
    assert_eq!(seen, [(loud.0.id(), true), (quiet.0.id(), false)]);
    assert_eq!(found[0].path, script);
    let others = processes::find(&facts, uid(), loud.0.id(), &program);
    assert_eq!(others.len(), 1);
    let python = Program::read(&facts, Path::new("/usr/bin/python3"), uid()).unwrap();
    let found = processes::find(&facts, uid(), 0, &python);
    let scripts = [quiet.0.id(), loud.0.id()];
    assert!(
        found.iter().all(|one| !scripts.contains(&one.pid)),
        "what runs a script is the script: {found:?}"
    );
}

#[test]
fn the_notice_says_what_to_do() {
    let instance = Instance {
        pid: 123,
        path: "/usr/lib/firefox/firefox".into(),
        listens: true,
    };
    let expected = "firefox is already running outside (pid 123): it may take over what this \
        command opens; close it first, or cover it by a rule with \
        \"SigningIdentifier\": \"exe:/usr/lib/firefox/firefox\"";
    assert_eq!(already_runs("firefox", &instance), expected);
}
