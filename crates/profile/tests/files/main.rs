//! Loading, installing and removing profiles, and reading credentials, on real files.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod good;
mod guarded;
mod machine;
mod users;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use offramp_profile::{
    Asset, ChangeError, Code, CredentialError, Credentials, Installed, Method, UserFile, UserFiles,
    ephemeral, install, install_user, read, remove,
};
use offramp_rules::{Host, Layer, ProfileId};

use machine::{Machine, declaration, mode, names, told};

#[test]
fn nothing_there_is_nothing_wrong() {
    let loaded = Machine::new().load(None);
    assert!(loaded.profiles.is_empty() && loaded.problems.is_empty());
}

#[test]
fn layers_and_files_have_an_order() {
    let machine = Machine::new();
    machine.write(
        "etc/policies/managed/10.json",
        &declaration("a", "managed 10"),
    );
    machine.write(
        "etc/policies/managed/20.json",
        &declaration("a", "managed 20"),
    );
    machine.write("etc/policies/managed/.hidden.json", "{");
    machine.write("etc/policies/managed/notes.txt", "{");
    machine.write(
        "etc/policies/recommended/x.json",
        &declaration("a", "recommended"),
    );
    machine.write(
        "etc/policies/recommended/y.json",
        &declaration("b", "recommended b"),
    );
    machine.write("vendor/managed/v.json", &declaration("b", "vendor b"));
    machine.write(
        "vendor/managed/10.json",
        &declaration("c", "masked by name"),
    );
    machine.write(
        "vendor/managed/w.json",
        &declaration("d", "masked by a link"),
    );
    machine.write("vendor/recommended/z.json", &declaration("e", "vendor e"));
    symlink(
        "/dev/null",
        machine.config().join("policies/managed/w.json"),
    )
    .unwrap();
    let loaded = machine.load(None);
    let expected = [
        ("managed 20", Layer::Managed),
        ("recommended b", Layer::Recommended),
        ("vendor e", Layer::Vendor),
    ];
    assert_eq!(
        names(&loaded),
        expected.map(|(name, layer)| (name.to_owned(), layer))
    );
    assert_eq!(
        told(&machine, &loaded),
        [
            "Info.Superseded etc/policies/managed/10.json:1:66: Identifier: \
             a is in force as etc/policies/managed/20.json has it",
            "Info.Superseded etc/policies/recommended/x.json:1:66: Identifier: \
             a is in force as etc/policies/managed/20.json has it",
            "Info.Superseded vendor/managed/v.json:1:66: Identifier: \
             b is in force as etc/policies/recommended/y.json has it",
        ]
    );
    assert!(
        loaded
            .problems
            .iter()
            .all(|problem| problem.code.is_information())
    );
    assert_eq!(loaded.rules().iter().count(), 3);
    assert!(loaded.find(&ProfileId::new("e")).is_some());
}

#[test]
fn a_bad_file_never_replaces_a_good_one() {
    let machine = Machine::new();
    let path = machine.write("etc/policies/managed/a.json", &declaration("a", "good"));
    machine.write("etc/policies/managed/b.json", &declaration("b", "other"));
    let good = machine.load(None);
    assert_eq!(good.profiles.len(), 2);

    machine.write("etc/policies/managed/a.json", "{");
    let kept = machine.load(Some(&good));
    assert_eq!(names(&kept), names(&good));
    assert_eq!(
        told(&machine, &kept),
        [
            "Error.ConfigurationCannotBeDeserialized etc/policies/managed/a.json:1:1: \
             EOF while parsing an object"
        ]
    );
    // It is kept for as long as the file stays bad, and not without a memory of it.
    assert_eq!(names(&machine.load(Some(&kept))), names(&good));
    assert_eq!(machine.load(None).profiles.len(), 1);

    machine.write("etc/policies/managed/a.json", &declaration("a", "new"));
    mode(&path, 0o666);
    let exposed = machine.load(Some(&kept));
    assert_eq!(names(&exposed), names(&good));
    assert_eq!(
        told(&machine, &exposed),
        [
            "Error.ConfigurationCannotBeApplied etc/policies/managed/a.json: has mode 0666 \
             (it has to be a file of root's that nobody else may write: chown root and chmod go-w)"
        ]
    );

    mode(&path, 0o644);
    assert_eq!(machine.load(Some(&exposed)).profiles[0].visible_name, "new");
    fs::remove_file(&path).unwrap();
    assert_eq!(machine.load(Some(&exposed)).profiles.len(), 1);
}

#[test]
fn a_directory_that_cannot_be_read_keeps_its_profiles() {
    let machine = Machine::new();
    machine.write("etc/policies/managed/a.json", &declaration("a", "good"));
    let good = machine.load(None);
    let directory = machine.config().join("policies/managed");
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "").unwrap();
    let kept = machine.load(Some(&good));
    assert_eq!(names(&kept), names(&good));
    assert_eq!(kept.problems[0].code, Code::CannotBeApplied);
}

#[test]
fn a_file_counts_whole_or_not_at_all() {
    let machine = Machine::new();
    let two = format!(
        r#"{{ "Declarations": [{}, {}] }}"#,
        declaration("a", "fine"),
        declaration("b", "")
    );
    machine.write("etc/policies/managed/two.json", &two);
    let loaded = machine.load(None);
    assert!(loaded.profiles.is_empty());
    assert_eq!(loaded.problems.len(), 1);
}

#[test]
fn install_keeps_the_old_file_or_the_new_one() {
    let machine = Machine::new();
    let config = machine.config();
    let path = config.join("policies/managed/a.b-c.json");
    let text = declaration("a.b-c", "one");
    assert_eq!(
        install(&config, Layer::Managed, &text),
        Ok(Installed::Installed(path.clone()))
    );
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644
    );
    assert_eq!(
        install(&config, Layer::Managed, &text),
        Ok(Installed::Unchanged(path.clone()))
    );
    mode(&path, 0o666);
    assert_eq!(
        install(&config, Layer::Managed, &text),
        Ok(Installed::Installed(path.clone())),
        "a file that would not be loaded is written anew"
    );
    let Err(ChangeError::Invalid(problems)) = install(&config, Layer::Managed, "{") else {
        panic!("a broken text was installed");
    };
    assert_eq!(problems.len(), 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(
        install(&config, Layer::Managed, &declaration("a.b-c", "two")),
        Ok(Installed::Installed(path.clone()))
    );
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "temporary files are left");
    assert_eq!(machine.load(None).profiles[0].visible_name, "two");
    assert_eq!(remove(&config, "a.b-c"), Ok(path));
    assert_eq!(
        remove(&config, "a.b-c"),
        Err(ChangeError::NotInstalled("a.b-c".to_owned()))
    );
}

#[test]
fn install_writes_the_file_that_has_the_profile() {
    let machine = Machine::new();
    let path = machine.write(
        "etc/policies/managed/10-corp.json",
        &declaration("a", "old"),
    );
    assert_eq!(
        install(&machine.config(), Layer::Managed, &declaration("a", "new")),
        Ok(Installed::Installed(path))
    );
    assert_eq!(machine.load(None).profiles.len(), 1);
    assert!(machine.load(None).problems.is_empty());

    let two = format!(
        r#"{{ "Declarations": [{}, {}] }}"#,
        declaration("x", "x"),
        declaration("y", "y")
    );
    machine.write("etc/policies/managed/two.json", &two);
    assert!(matches!(
        install(&machine.config(), Layer::Managed, &declaration("x", "new")),
        Err(ChangeError::Failed(_))
    ));
    assert!(matches!(
        remove(&machine.config(), "x"),
        Err(ChangeError::Failed(_))
    ));
    assert!(matches!(
        install(&machine.config(), Layer::Managed, &two),
        Err(ChangeError::Invalid(_))
    ));
}

#[test]
fn identifiers_that_are_no_file_names_are_refused() {
    let machine = Machine::new();
    for id in ["../../etc/passwd", ".hidden", "a b", "ä"] {
        let text = declaration(id, "x");
        assert!(read(&text, None, Layer::Managed).is_ok());
        let Err(ChangeError::Invalid(problems)) = install(&machine.config(), Layer::Managed, &text)
        else {
            panic!("{id} was installed");
        };
        assert_eq!((problems[0].line, problems[0].column), (1, 66));
    }
    assert!(!machine.config().join("policies").exists());
}

#[test]
fn what_cannot_be_written_names_the_file() {
    let machine = Machine::new();
    machine.write("etc/policies", "a file where a directory should be");
    let Err(ChangeError::Failed(problem)) =
        install(&machine.config(), Layer::Managed, &declaration("a", "x"))
    else {
        panic!("it was written");
    };
    assert!(
        problem
            .to_string()
            .contains("policies/managed: cannot be read"),
        "{problem}"
    );
}

fn secret(machine: &Machine, name: &str, text: &str, bits: u32) -> Asset {
    let path = machine.write(&format!("etc/credentials/{name}"), text);
    mode(&path, bits);
    Asset::Credential(name.to_owned())
}

#[test]
fn credentials_are_read_and_guarded() {
    let machine = Machine::new();
    let credentials = Credentials::within([
        machine.root.path().join("systemd"),
        machine.config().join("credentials"),
    ]);
    let login = secret(&machine, "login", "anna:open:sesame\n", 0o600);
    let password = credentials.password(&login).unwrap();
    assert_eq!(
        (&*password.user, password.password.expose()),
        ("anna", "open:sesame")
    );
    assert_eq!(
        format!("{password:?}"),
        r#"Password { user: "anna", password: *** }"#
    );

    let token = secret(&machine, "token", "abc.DEF-123==\r\n", 0o400);
    assert_eq!(
        credentials.bearer(&token).unwrap().expose(),
        "abc.DEF-123=="
    );

    machine.write("systemd/token", "from-systemd");
    mode(&machine.root.path().join("systemd/token"), 0o400);
    assert_eq!(credentials.bearer(&token).unwrap().expose(), "from-systemd");

    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let anchors = secret(&machine, "ca", pem, 0o644);
    assert_eq!(credentials.anchors(&anchors).unwrap(), pem.as_bytes());
    let writable = secret(&machine, "ca2", pem, 0o664);
    let error = credentials.anchors(&writable).unwrap_err();
    assert!(matches!(error, CredentialError::Exposed { .. }));
}

#[test]
fn bad_credentials_say_what_to_do() {
    let machine = Machine::new();
    let credentials = Credentials::open(&machine.config());
    let root = format!("{}/", machine.root.path().display());
    let password = |asset: &Asset| {
        let error = credentials.password(asset).unwrap_err().to_string();
        error.replace(&root, "")
    };
    assert_eq!(
        password(&Asset::Credential("away".to_owned())),
        "the credential away is missing: put it into etc/credentials/away, owned by root, \
         with mode 0600"
    );
    assert_eq!(
        password(&secret(&machine, "open", "a:b", 0o640)),
        "etc/credentials/open has mode 0640: make it root's with mode 0600"
    );
    for (name, text) in [("none", "hunter2"), ("user", ":hunter2")] {
        let error = password(&secret(&machine, name, text, 0o600));
        let expected = format!("etc/credentials/{name} has to be one line USER:PASSWORD");
        assert_eq!(error, expected);
    }
    for (name, text) in [("empty", ""), ("lines", "a:b\nc:d\n")] {
        let error = password(&secret(&machine, name, text, 0o600));
        assert_eq!(
            error,
            format!("etc/credentials/{name} has to be one line of text")
        );
    }
    let spaced = secret(&machine, "spaced", "a b", 0o600);
    assert!(credentials.bearer(&spaced).is_err());
    let no_pem = secret(&machine, "pem", "AAAA", 0o600);
    assert!(credentials.anchors(&no_pem).is_err());
}

#[test]
fn a_missing_credential_is_told_at_its_reference() {
    let machine = Machine::new();
    let text = r#"{
  "Type": "org.offramp.configuration.network.vpn",
  "Identifier": "a",
  "Payload": {
    "VisibleName": "x",
    "Servers": [
      {
        "URL": "https://a.example",
        "Authentication": { "Method": "Password", "CredentialsAssetReference": "credential:login" },
        "TLS": { "AnchorsAssetReference": "credential:ca" }
      }
    ]
  }
}"#;
    machine.write("etc/policies/managed/a.json", text);
    let loaded = machine.load(None);
    assert_eq!(
        loaded.profiles.len(),
        1,
        "the profile is in force, and refuses"
    );
    assert_eq!(
        told(&machine, &loaded),
        [
            "Error.MissingAssets etc/policies/managed/a.json:9:80: \
             Payload.Servers[0].Authentication.CredentialsAssetReference: the credential login is \
             missing: put it into etc/credentials/login, owned by root, with mode 0600",
            "Error.MissingAssets etc/policies/managed/a.json:10:43: \
             Payload.Servers[0].TLS.AnchorsAssetReference: the credential ca is missing: put it \
             into etc/credentials/ca, owned by root, with mode 0600",
        ]
    );
}

#[test]
fn a_profile_has_its_defaults() {
    let profile = &read(&declaration("a", "x"), None, Layer::Managed).unwrap()[0];
    assert_eq!(profile.rules.order, 1000);
    assert!(profile.rules.enabled && profile.removal_disallowed && !profile.allow_inbound);
    assert_eq!(profile.synthetic_v4.to_string(), "198.18.0.0/15");
    assert_eq!((profile.synthetic_v6, profile.revision), (None, 0));
    let server = &profile.servers[0];
    assert_eq!((&*server.name, server.port), ("a.example", 443));
    assert_eq!(server.server_name, server.host);
    assert!(!read(&declaration("a", "x"), None, Layer::User).unwrap()[0].removal_disallowed);
    let other = &read(&declaration("a", "y"), None, Layer::Managed).unwrap()[0];
    assert_ne!(profile.token, other.token);
    assert_eq!(profile.token.len(), 32);
}

#[test]
fn a_url_makes_a_profile() {
    let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
    let url = "https://anna:s%40cret@[2001:db8::1]:8443/";
    let profile = ephemeral("run-1", url, Some(pem.clone())).unwrap();
    assert!(!format!("{profile:?}").contains("cret"));
    assert_eq!(profile.id(), &ProfileId::new("run-1"));
    assert_eq!(profile.rules.layer, Layer::User);
    let server = &profile.servers[0];
    assert_eq!(server.host, Host::Address("2001:db8::1".parse().unwrap()));
    assert_eq!(server.port, 8443);
    let authentication = server.authentication.as_ref().unwrap();
    assert_eq!(authentication.method, Method::Password);
    let credentials = Credentials::within([]);
    let password = credentials.password(&authentication.asset).unwrap();
    assert_eq!(
        (&*password.user, password.password.expose()),
        ("anna", "s@cret")
    );
    let anchors = credentials
        .anchors(server.anchors.as_ref().unwrap())
        .unwrap();
    assert_eq!(anchors, pem);
    assert!(credentials.check(&profile).is_empty());

    let problem = |url: &str, pem| ephemeral("x", url, pem).unwrap_err().to_string();
    assert_eq!(
        problem("http://u:hunter2@a.example", None),
        "the server's URL is wrong: http:// is not supported (write https://HOST:PORT)"
    );
    assert_eq!(
        problem("https://hunter2@a.example", None),
        "the server's URL is wrong: the part before @ has to be USER:PASSWORD"
    );
    assert_eq!(
        problem("https://a.example", Some(b"AAAA".to_vec())),
        "the certificates are not PEM (give a file with -----BEGIN CERTIFICATE-----)"
    );
}

/// Runs in a thread of its own, whose mounts and whose user end with it.
fn apart(test: impl FnOnce() + Send + 'static) {
    let body = || {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        test();
    };
    std::thread::spawn(body).join().unwrap();
}

fn tmpfs(path: &Path, options: &str, flags: nix::mount::MsFlags) {
    fs::create_dir_all(path).unwrap();
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options)).unwrap();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_full_disk_leaves_the_old_file_whole() {
    apart(|| {
        let machine = Machine::new();
        let config = machine.config();
        tmpfs(&config, "size=16k,mode=755", nix::mount::MsFlags::empty());
        let old = declaration("a", "old");
        install(&config, Layer::Managed, &old).unwrap();
        let long = declaration("a", &"x".repeat(32 * 1024));
        let Err(ChangeError::Failed(problem)) = install(&config, Layer::Managed, &long) else {
            panic!("it was written");
        };
        let path = config.join("policies/managed/a.json");
        assert_eq!(problem.file.as_deref(), Some(&*path));
        let hint = problem.hint.unwrap();
        assert_eq!(hint, "the disk is full: make room and try again");
        assert_eq!(fs::read_to_string(&path).unwrap(), old);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    });
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_full_disk_leaves_what_users_gave_and_what_is_in_force() {
    apart(|| {
        let machine = Machine::new();
        machine.write("etc/policies/managed/a.json", &declaration("a", "machine"));
        let state = machine.root.path().join("state");
        let mounted = nix::mount::MsFlags::empty();
        tmpfs(&state, "size=64k,mode=755", mounted);
        let file = |name: &str, content: String| UserFile {
            name: name.to_owned(),
            content: content.into_bytes(),
        };
        let mut given = UserFiles {
            policies: vec![file("a.json", declaration("b", "old"))],
            credentials: Vec::new(),
        };
        install_user(&machine.users(), 1000, &given).unwrap();
        assert_eq!(machine.restart().profiles.len(), 2);
        given.policies = vec![file("a.json", declaration("b", "new"))];
        given.credentials = vec![file("large", "x".repeat(64 * 1024))];
        let Err(ChangeError::Failed(problem)) = install_user(&machine.users(), 1000, &given) else {
            panic!("it was written");
        };
        let hint = "the disk is full: make room and try again";
        assert_eq!(problem.hint.as_deref(), Some(hint));
        assert_eq!(fs::read_dir(machine.users()).unwrap().count(), 1);
        fs::write(state.join("filler"), vec![0; 128 * 1024]).unwrap_err();
        machine.write("etc/policies/managed/c.json", &declaration("c", "another"));
        let loaded = machine.restart();
        let visible: Vec<_> = names(&loaded).into_iter().map(|(name, _)| name).collect();
        assert_eq!(visible, ["machine", "another", "old"]);
        assert_eq!(loaded.problems.len(), 1, "{:?}", loaded.problems);
        assert!(
            loaded.problems[0]
                .message
                .starts_with("no copy of a good profile can be kept")
        );
    });
}

#[test]
fn what_is_as_it_was_is_not_read_again() {
    let machine = Machine::new();
    machine.write("etc/policies/managed/a.json", &declaration("a", "x"));
    machine.write("etc/policies/managed/b.json", &declaration("b", "x"));
    let before = machine.load(None);
    machine.write("etc/policies/managed/b.json", &declaration("b", "y"));
    let after = machine.load(Some(&before));
    let same = |index: usize| Arc::ptr_eq(&before.profiles[index], &after.profiles[index]);
    assert!(same(0) && !same(1));
    assert_eq!(after.profiles[1].visible_name, "y");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_read_only_file_system_is_told() {
    apart(|| {
        use nix::mount::{MsFlags, mount};
        let machine = Machine::new();
        let config = machine.config();
        tmpfs(&config, "size=64k,mode=755", MsFlags::empty());
        install(&config, Layer::Managed, &declaration("a", "old")).unwrap();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &config, None::<&str>, read_only, None::<&str>).unwrap();
        let hint = "the file system is read-only: remount it writable, or use --config";
        let is_told = |error| match error {
            ChangeError::Failed(problem) => assert_eq!(problem.hint.as_deref(), Some(hint)),
            error => panic!("{error:?}"),
        };
        is_told(install(&config, Layer::Managed, &declaration("a", "new")).unwrap_err());
        is_told(install(&config, Layer::Managed, &declaration("b", "new")).unwrap_err());
        is_told(remove(&config, "a").unwrap_err());
        assert_eq!(machine.load(None).profiles[0].visible_name, "old");
    });
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn whoever_is_not_root_is_told_so() {
    apart(|| {
        let machine = Machine::new();
        let config = machine.config();
        install(&config, Layer::Managed, &declaration("a", "old")).unwrap();
        mode(machine.root.path(), 0o755);
        // This thread alone becomes somebody else towards files.
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        for error in [
            install(&config, Layer::Managed, &declaration("a", "new")).unwrap_err(),
            remove(&config, "a").unwrap_err(),
        ] {
            let ChangeError::NotPermitted(problem) = error else {
                panic!("{error:?}");
            };
            assert_eq!(problem.hint.as_deref(), Some("do it as root"));
        }
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
        assert_eq!(machine.load(None).profiles[0].visible_name, "old");
    });
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn files_of_other_users_do_not_count() {
    let machine = Machine::new();
    let path = machine.write("etc/policies/managed/a.json", &declaration("a", "x"));
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    let loaded = machine.load(None);
    assert!(loaded.profiles.is_empty());
    assert_eq!(loaded.problems[0].message, "belongs to user 65534");
    let login = secret(&machine, "login", "a:b", 0o600);
    std::os::unix::fs::chown(
        machine.config().join("credentials/login"),
        Some(65534),
        None,
    )
    .unwrap();
    let error = Credentials::open(&machine.config())
        .password(&login)
        .unwrap_err();
    assert!(matches!(error, CredentialError::Exposed { .. }));
}
