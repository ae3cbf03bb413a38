use super::*;

#[test]
fn a_link_that_leads_elsewhere_is_followed() {
    let folder = Folder::new();
    let (one, two) = (folder.program("one"), folder.program("two"));
    let link = folder.at("link");
    std::os::unix::fs::symlink(&one, &link).expect("there is room");
    let (facts, before) = facts(&[&exe(&link)]);
    assert_eq!(facts.refresh(), None);
    assert!(before.files.contains(&id_of(&one)));
    let new = folder.at("new");
    std::os::unix::fs::symlink(&two, &new).expect("there is room");
    fs::rename(&new, &link).expect("one folder");
    let now = facts.refresh().expect("it leads elsewhere");
    assert!(now.files.contains(&id_of(&two)) && !now.files.contains(&id_of(&one)));
    assert!(now.executables.contains("two"));
    assert_eq!(facts.refresh(), None);
}

#[test]
fn a_path_may_lead_somewhere_later() {
    let folder = Folder::new();
    let path = folder.at("app");
    let (facts, before) = facts(&[&exe(&path)]);
    assert!(before.executables.contains("app"));
    folder.program("app");
    let now = facts.refresh().expect("it is there");
    let fresh: Vec<_> = now.files.difference(&before.files).collect();
    assert_eq!(fresh, [&id_of(&path)]);
    // Known at once, not only after a look.
    fs::remove_file(&path).expect("it is there");
    folder.program("app");
    let running = Running::start(&mut Command::new(&path));
    let app = facts.of_process(running.pid()).expect("it runs");
    let known = app.executable.map(|program| program.known_as);
    assert_eq!(known, Some(BTreeSet::from([path])));
}

#[test]
fn names_are_looked_up() {
    let (facts, interest) = facts(&["exe:sh"]);
    let shell = fs::canonicalize("/bin/sh").expect("there is one");
    assert!(interest.files.contains(&id_of(&shell)));
    let app = facts.of_path(&shell, 0).expect("it is there");
    let known = app
        .executable
        .map(|program| program.known_as)
        .unwrap_or_default();
    assert!(known.contains(Path::new("/bin/sh")), "{known:?}");
}

#[test]
fn conditions_and_tools_are_known_and_not_asked_for() {
    let folder = Folder::new();
    let app = folder.program("app");
    let tool = folder.program("tool");
    let link = folder.at("link");
    std::os::unix::fs::symlink(&tool, &link).expect("there is room");
    let mut ide = rule(&exe(&app));
    ide.tools = vec![rule(&exe(&link))];
    let facts = Facts::new();
    let interest = facts.learn(&profiles(vec![ide]));
    assert!(!interest.files.contains(&id_of(&tool)));
    let found = facts.of_path(&tool, 0).expect("it is there");
    let known = found.executable.map(|program| program.known_as);
    assert_eq!(known, Some(BTreeSet::from([link])));
}

#[test]
fn interpreters_are_many_programs() {
    let folder = Folder::new();
    let interpreter = folder.program("mine");
    let line = format!("#!{}\nx\n", interpreter.display());
    let script = folder.script("text", &line);
    let (facts, _) = facts(&[&exe(&script)]);
    let is = |path: &Path| {
        let app = facts.of_path(path, 0).expect("it is there");
        !facts.is_settled_by(path.to_str().expect("it is text"), id_of(path), &app)
    };
    assert!(is(Path::new("/bin/sh")) && is(&interpreter) && is(&script));
    assert!(!is(Path::new("/usr/bin/cat")));
}

#[test]
fn five_thousand_rules_are_looked_up() {
    let rules = (0..5000).map(|n| match n % 2 {
        0 => rule(&format!("exe:name-{n}")),
        _ => rule(&format!("exe:/opt/folder-{n}/app-{n}")),
    });
    let facts = Facts::new();
    let interest = facts.learn(&profiles(rules.collect()));
    let of_rules = |name: &&String| name.starts_with("name-") || name.starts_with("app-");
    assert_eq!(interest.executables.iter().filter(of_rules).count(), 5000);
    assert_eq!(facts.refresh(), None);
}

#[test]
fn a_verdict_is_of_the_path_by_which_the_host_has_it() {
    let folder = Folder::new();
    let app = folder.program("place/app");
    // The same file, as it is seen where another folder is the root.
    let jailed = folder.at("jail/place/app");
    fs::hard_link(&app, &jailed).expect("one file system");
    let link = folder.at("link");
    std::os::unix::fs::symlink(&app, &link).expect("there is room");
    let other = folder.program("other");
    let (facts, _) = facts(&[&exe(&other)]);
    let seen = |path: &Path| facts.of_path(path, 0).expect("it is there");
    let is_settled = |by: &Path, app: &App| {
        let by = by.to_str().expect("it is text");
        facts.is_settled_by(by, id_of(&jailed), app)
    };
    assert!(is_settled(&app, &seen(&app)) && is_settled(&link, &seen(&app)));
    assert!(is_settled(&jailed, &seen(&jailed)));
    assert!(!is_settled(&app, &seen(&jailed)) && !is_settled(&link, &seen(&jailed)));
    // Another file, or none, is there.
    assert!(!is_settled(&other, &seen(&other)) && !is_settled(&folder.at("none"), &seen(&app)));
}

#[test]
fn a_place_has_no_links_in_it() {
    let folder = Folder::new();
    let app = folder.program("real/app");
    std::os::unix::fs::symlink(folder.at("real"), folder.at("link")).expect("there is room");
    let link = folder.at("link").join("app");
    let place = Opened::at(&link).expect("it is there").place();
    assert_eq!(place.path, Some(app));
}
