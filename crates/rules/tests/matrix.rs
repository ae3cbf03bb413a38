//! Every kind of identity against apps that have it and apps that nearly do.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;

use offramp_rules::{App, Bundle, Cgroup, Identity, ProfileId, Program, Rule, User};

fn program(path: &str) -> Program {
    Program {
        name: path.rsplit('/').next().map(str::to_owned),
        path: Some(path.into()),
        ..Program::default()
    }
}

fn exe(path: &str) -> App {
    App {
        executable: Some(program(path)),
        ..App::default()
    }
}

/// What the host does not see: in memory, or in a container.
fn hidden(name: &str) -> App {
    let mut app = exe(name);
    app.executable.as_mut().unwrap().path = None;
    app
}

fn script(path: &str, interpreter: &str) -> App {
    App {
        script: Some(program(path)),
        ..exe(interpreter)
    }
}

fn known_as(mut app: App, path: &str) -> App {
    let program = app.executable.as_mut().unwrap();
    program.known_as.insert(path.into());
    app
}

fn cgroup(path: &str) -> App {
    App {
        cgroup: Some(Cgroup::new(path)),
        ..App::default()
    }
}

/// In the part of the tree that alice's service manager has.
fn alice(path: &str) -> App {
    cgroup(&format!(
        "/user.slice/user-1000.slice/user@1000.service/{path}"
    ))
}

fn bundle(bundle: Bundle) -> App {
    App {
        bundles: [bundle].into(),
        ..App::default()
    }
}

fn check<const N: usize, const M: usize>(identity: &str, are: [App; N], are_not: [App; M]) {
    let parsed: Identity = identity.parse().unwrap();
    for app in are {
        assert!(parsed.matches(&app), "{identity} is {app:?}");
    }
    for app in are_not {
        assert!(!parsed.matches(&app), "{identity} is not {app:?}");
    }
}

#[test]
fn by_the_name_of_the_executable() {
    check(
        "exe:curl",
        [
            exe("/usr/bin/curl"),
            exe("/home/u/curl"),
            hidden("curl"),
            known_as(exe("/usr/libexec/curl-8"), "/usr/bin/curl"),
            script("/usr/bin/curl", "/bin/sh"),
        ],
        [
            exe("/usr/bin/curl2"),
            exe("/usr/bin/Curl"),
            exe("/opt/curl/bin/tool"),
            script("/home/u/x.sh", "/bin/sh"),
            App::default(),
        ],
    );
    check(
        "exe:python3*",
        [
            exe("/usr/bin/python3"),
            exe("/usr/bin/python3.11"),
            script("/x.py", "/usr/bin/python3"),
        ],
        [exe("/usr/bin/python2"), exe("/opt/python3/bin/tool")],
    );
    check("exe:[[]", [exe("/usr/bin/[")], [exe("/usr/bin/test")]);
}

#[test]
fn by_the_path_of_the_executable() {
    check(
        "exe:/usr/bin/vi",
        [
            exe("/usr/bin/vi"),
            // A link, another name of the same file, or what is mounted elsewhere.
            known_as(exe("/usr/bin/vim.basic"), "/usr/bin/vi"),
            known_as(hidden("vi"), "/usr/bin/vi"),
            script("/usr/bin/vi", "/bin/sh"),
        ],
        [
            exe("/home/u/vi"),
            exe("/chroot/usr/bin/vi"),
            hidden("vi"),
            exe("/usr/bin/vi/vi"),
            known_as(exe("/usr/bin/vim.basic"), "/usr/bin/view"),
        ],
    );
    check(
        "exe:/opt/*/bin/tool",
        [
            exe("/opt/a/bin/tool"),
            script("/opt/b/bin/tool", "/usr/bin/python3"),
        ],
        [
            exe("/opt/bin/tool"),
            exe("/opt/a/b/bin/tool"),
            exe("/opt/a/bin/tools"),
            hidden("tool"),
        ],
    );
    check(
        "exe:/opt/**",
        [exe("/opt/a"), exe("/opt/.a/b/c")],
        [exe("/opt"), exe("/optional/a"), exe("/usr/opt/a")],
    );
    check(
        "exe:/home/*/.local/**/tool",
        [exe("/home/u/.local/tool"), exe("/home/u/.local/a/b/tool")],
        [exe("/home/u/v/.local/tool"), exe("/home/u/.local/tool/x")],
    );
}

#[test]
fn by_units_of_the_system() {
    check(
        "unit:cups",
        [
            cgroup("/system.slice/cups.service"),
            cgroup("/system.slice/cups.service/payload/x"),
            cgroup("/a.slice/a-b.slice/cups.service"),
        ],
        [
            cgroup("/system.slice/cups.socket"),
            cgroup("/system.slice/cups-browsed.service"),
            cgroup("/system.slice/cups.service.d"),
            cgroup("/system.slice"),
            // What others may have made and named so.
            alice("cups.service"),
            alice("app.slice/cups.service"),
            alice("user@0.service/system.slice/cups.service"),
            cgroup("/system.slice/web.service/cups.service"),
            cgroup("/system.slice/web.service/system.slice/cups.service"),
            cgroup("/machine.slice/machine-a.scope/payload/system.slice/cups.service"),
            cgroup("/docker/cups.service"),
            App::default(),
        ],
    );
    check(
        "unit:getty@",
        [cgroup(
            "/system.slice/system-getty.slice/getty@tty1.service",
        )],
        [
            cgroup("/system.slice/getty.service"),
            cgroup("/system.slice/serial-getty@ttyS0.service"),
        ],
    );
    check(
        "unit:system-getty.slice",
        [cgroup(
            "/system.slice/system-getty.slice/getty@tty1.service",
        )],
        [
            cgroup("/system.slice/getty@tty1.service"),
            alice("system-getty.slice/a.service"),
        ],
    );
    check(
        "unit:user@1000",
        [alice("app.slice/a.scope"), alice("init.scope")],
        [cgroup(
            "/user.slice/user-1001.slice/user@1001.service/user@1000.service",
        )],
    );
    check(
        "unit:session-*.scope",
        [cgroup("/user.slice/user-1000.slice/session-2.scope")],
        [alice("session-2.scope")],
    );
    check(
        r"unit:dev-a\x2db.mount",
        [cgroup(r"/system.slice/dev-a\x2db.mount")],
        [cgroup("/system.slice/dev-a-b.mount")],
    );
}

#[test]
fn by_units_of_a_user() {
    check(
        "user-unit:podman",
        [
            alice("app.slice/podman.service"),
            alice("podman.service/libpod/x"),
        ],
        [
            cgroup("/system.slice/podman.service"),
            alice("app.slice/podman.scope"),
            alice("app.slice/a.scope/podman.service"),
            cgroup("/x/user@1000.service/podman.service"),
            cgroup("/system.slice/user@x.scope/podman.service"),
        ],
    );
}

#[test]
fn by_control_group() {
    check(
        "cgroup:/a/b",
        [cgroup("/a/b"), cgroup("/a/b/c"), cgroup("a/b/")],
        [
            cgroup("/a"),
            cgroup("/a/bc"),
            cgroup("/x/a/b"),
            cgroup("/"),
            App::default(),
        ],
    );
    check("cgroup:/", [cgroup("/"), cgroup("/a")], [App::default()]);
}

#[test]
fn by_desktop_entry() {
    let firefox = [
        alice("app.slice/app-firefox-1234.scope"),
        alice("app.slice/app-gnome-firefox-1234.scope"),
        alice("app.slice/app-firefox@0a1b.service"),
        alice("app.slice/app-firefox.slice/x.scope"),
        bundle(Bundle::Desktop("firefox".to_owned())),
    ];
    let others = [
        alice("app.slice/app-gnome-firefox-esr-1234.scope"),
        alice(r"app.slice/app-firefox\x2desr-1234.scope"),
        alice("app.slice/firefox-1234.scope"),
        alice("app.slice/app-firefox-1234.mount"),
        alice("app.slice/x.scope/app-firefox-1234.scope"),
        cgroup("/system.slice/app-firefox-1234.scope"),
        bundle(Bundle::Flatpak("firefox".to_owned())),
        exe("/usr/bin/firefox"),
    ];
    check("app:firefox", firefox.clone(), others.clone());
    check("app:firefox.desktop", firefox, others);
    check(
        "app:firefox-esr",
        [
            alice(r"app.slice/app-gnome-firefox\x2desr-1234.scope"),
            alice("app.slice/app-gnome-firefox-esr-1234.scope"),
        ],
        [alice("app.slice/app-gnome-firefox-1234.scope")],
    );
    check(
        "app:org.gnome.Nautilus",
        [alice("app.slice/dbus-:1.2-org.gnome.Nautilus@0.service")],
        [alice(
            "app.slice/dbus-:1.2-org.gnome.NautilusPreviewer@0.service",
        )],
    );
    check(
        "app:org.telegram.desktop",
        [alice("app.slice/app-org.telegram.desktop-7.scope")],
        [alice("app.slice/app-org.telegram.desktop.x-7.scope")],
    );
}

#[test]
fn by_flatpak_and_snap() {
    check(
        "flatpak:org.mozilla.firefox",
        [
            alice("app.slice/app-flatpak-org.mozilla.firefox-99.scope"),
            bundle(Bundle::Flatpak("org.mozilla.firefox".to_owned())),
        ],
        [
            alice("app.slice/app-gnome-org.mozilla.firefox-99.scope"),
            alice("app.slice/app-flatpak-org.mozilla.firefox.beta-99.scope"),
            bundle(Bundle::Snap("org.mozilla.firefox".to_owned())),
        ],
    );
    check(
        "snap:foo",
        [
            alice("app.slice/snap.foo.bar-0a1b.scope"),
            cgroup("/system.slice/snap.foo.daemon.service"),
            bundle(Bundle::Snap("foo".to_owned())),
        ],
        [
            alice("app.slice/snap.foo-bar.bar-0a1b.scope"),
            alice("app.slice/snap.foo_2.bar-0a1b.scope"),
            cgroup("/system.slice/web.service/snap.foo.daemon.service"),
        ],
    );
    check(
        "org.a.B",
        [
            bundle(Bundle::Flatpak("org.a.B".to_owned())),
            bundle(Bundle::Snap("org.a.B".to_owned())),
            bundle(Bundle::Desktop("org.a.B".to_owned())),
            alice("app-flatpak-org.a.B-1.scope"),
        ],
        [
            bundle(Bundle::Flatpak("org.a".to_owned())),
            exe("/usr/bin/org.a.B"),
        ],
    );
}

#[test]
fn by_wrapper() {
    let app = App {
        wrapper: Some(ProfileId::new("work")),
        ..App::default()
    };
    check("wrapper:work", [app.clone()], [App::default()]);
    check("wrapper:home", [], [app]);
}

#[test]
fn conditions_have_to_be_true_of_what_the_rule_names() {
    let owned = |path: &str, owner: u32| Program {
        owner: Some(owner),
        ..program(path)
    };
    let run = |script: Option<Program>, executable: Program| App {
        script,
        executable: Some(executable),
        user: User {
            id: 1000,
            ..User::default()
        },
        cgroup: Some(Cgroup::new("/system.slice/x.service")),
        ..App::default()
    };
    let root = Some("owner = root or owner = 0".parse().unwrap());
    let is = |rule: &Rule, app: &App| rule.mismatch(app).is_none();
    let rule = |identity: &str| Rule {
        requirement: root.clone(),
        ..Rule::new(identity.parse().unwrap())
    };
    let own_script = run(Some(owned("/home/u/x", 1000)), owned("/usr/bin/python3", 0));
    let system_script = run(Some(owned("/usr/bin/x", 0)), owned("/home/u/python3", 1000));
    // That python is root's makes no script root's.
    for identity in ["exe:x", "exe:*", "exe:/**", "unit:x", "cgroup:/"] {
        assert!(!is(&rule(identity), &own_script), "{identity}");
        assert!(is(&rule(identity), &system_script), "{identity}");
    }
    assert!(is(&rule("exe:python3"), &own_script));
    assert!(!is(&rule("exe:python3"), &system_script));
    let at = |identity: &str, path: &str| Rule {
        path: Some(PathBuf::from(path)),
        ..rule(identity)
    };
    assert!(is(&at("unit:x", "/usr/bin/python3"), &own_script));
    assert!(!is(&at("exe:python3", "/home/u/x"), &own_script));
    assert!(!is(&at("exe:python3", "/usr/bin/python3.11"), &own_script));
    let user = |user: &str| Rule {
        user: Some(user.parse().unwrap()),
        ..Rule::new("exe:x".parse().unwrap())
    };
    assert!(is(&user("1000"), &own_script));
    assert!(!is(&user("0-999"), &own_script));
}
