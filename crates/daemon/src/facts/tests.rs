use super::*;

#[test]
fn a_process_knows_itself() {
    let facts = Facts::new();
    let app = facts.of_process(std::process::id()).expect("this one runs");
    let path = std::env::current_exe().expect("there is one");
    assert_eq!(app.executable.and_then(|program| program.path), Some(path));
    let all = facts.processes();
    let own = all.iter().find(|process| process.pid == std::process::id());
    assert!(own.is_some_and(|process| process.is_ours && process.parent > 0));
}

#[test]
fn a_path_is_the_program_that_it_leads_to() {
    let facts = Facts::new();
    let app = facts
        .of_path(Path::new("/bin/sh"), 0)
        .expect("there is one");
    assert_eq!(app.user.id, 0);
    assert!(app.script.is_none());
    assert!(app.executable.is_some_and(|program| program.path.is_some()));
}
