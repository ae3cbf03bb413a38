//! Which names a profile is for: apps with a resolver of their own that encrypts do without it under
//! `RefuseEncryptedResolvers`, and browsers are claimed for `BrowserDomains`.

use std::time::{Duration, Instant};

use offramp_tests::{Daemon, Finished, Gateway, Lab, Running, User, port, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
/// Whoever waits for an answer that does not come waits for longer.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A listed resolver, and one that nobody has listed, on the machine of the name server.
struct Resolver {
    questions: Running,
    _https: Running,
}

impl Resolver {
    fn start(lab: &Lab) -> Self {
        for block in ["8.8.8.8/32", "192.0.2.8/32"] {
            let via = format!("ip route add {block} via 10.90.4.2");
            lab.router().sh(&via);
            lab.dns().sh(&format!("ip route add local {block} dev lo"));
        }
        let block = "2001:4860:4860::8888/128";
        lab.router()
            .sh(&format!("ip route add {block} via fd00:90:4::2"));
        lab.dns().sh(&format!("ip route add local {block} dev lo"));
        let names = ["dns.google", "doh.test", "8.8.8.8", "192.0.2.8"];
        let identity = lab.authority().sign("resolver", &names);
        let [certificate, key] =
            [&identity.certificate, &identity.key].map(|path| path.display().to_string());
        let script = lab.directory().join("resolver.py");
        std::fs::write(&script, include_str!("encrypted/resolver.py")).expect("it is ours");
        let script = script.display().to_string();
        let questions = lab
            .dns()
            .spawn(&["/usr/bin/python3", &script, &certificate, &key]);
        let https = lab.dns().spawn(&[
            "nghttpx",
            "--conf=/dev/null",
            "--workers=1",
            "--frontend=*,443",
            "--backend=127.0.0.1,8053",
            &key,
            &certificate,
        ]);
        for port in ["443", "853", "8053"] {
            let filter = format!("sport = :{port}");
            wait_until("the resolver listens", LIMIT, || {
                let listening = lab.dns().run(&["ss", "-Htnl", &filter]).success();
                !listening.trim().is_empty()
            });
        }
        Self {
            questions,
            _https: https,
        }
    }

    fn was_asked(&self) -> usize {
        self.questions.said().lines().count()
    }
}

fn profile(dns: Value, payload: Value) -> Value {
    let mut profile = Daemon::profile();
    profile["Payload"]["DNS"] = dns;
    for (key, value) in payload.as_object().into_iter().flatten() {
        profile["Payload"][key] = value.clone();
    }
    profile
}

fn refusing() -> Value {
    json!({ "RefuseEncryptedResolvers": true })
}

/// Clients with a resolver of their own, which is listed by name, by address, and nowhere but for the
/// port or for the name that the client says.
const CLIENTS: [&str; 6] = [
    "curl -sS -4 --max-time 25 --cacert %ca --doh-url https://dns.google/dns-query http://v4.test/",
    "curl -sS -4 --max-time 25 --cacert %ca --doh-url https://8.8.8.8/dns-query http://v4.test/",
    "dig +tries=1 +time=20 @8.8.8.8 +https v4.test",
    "dig +tries=1 +time=20 @8.8.8.8 +tls v4.test",
    "dig +tries=1 +time=20 @192.0.2.8 +tls v4.test",
    "curl -sS -4 --max-time 25 --cacert %ca --resolve dns.google:443:192.0.2.8 \
     --doh-url https://dns.google/dns-query http://v4.test/",
];

/// Runs a command line under the profile; `%ca` is the lab's authority.
fn run(lab: &Lab, daemon: &Daemon<'_>, line: &str) -> Finished {
    let ca = lab.authority().certificate().display().to_string();
    let line = line.replace("%ca", &ca);
    daemon.run(&line.split(' ').collect::<Vec<_>>())
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn resolvers_of_apps_are_refused_where_the_profile_says_so() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let resolver = Resolver::start(&lab);

    // Without the key it is a flow like any other.
    let mut daemon = Daemon::start(&lab);
    let capture = lab.capture();
    for client in CLIENTS {
        let before = resolver.was_asked();
        let said = run(&lab, &daemon, client).success();
        assert!(
            said.contains("peer=10.90.2.2:") || said.contains("203.0.113.10"),
            "{client:?}: {said}"
        );
        assert!(resolver.was_asked() > before, "{client:?}: {said}");
    }
    capture.packets().assert_only_gateway();

    // With it, a flow that is open ends, and none begins.
    let open = "exec 3<>/dev/tcp/8.8.8.8/443; echo open; cat <&3";
    let mut open = daemon.spawn(&["bash", "-c", open]);
    wait_until("the flow is open", LIMIT, || open.said().contains("open"));
    let refusing = profile(refusing(), json!({}));
    daemon.write("policies/managed/0.json", &refusing.to_string());
    wait_until("the flow is cut", LIMIT, || {
        let log = daemon.process().complained();
        log.contains("flows cut that go another way now") && !open.is_running()
    });
    let before = resolver.was_asked();
    let capture = lab.capture();
    for client in CLIENTS {
        let begin = Instant::now();
        let said = run(&lab, &daemon, client);
        let took = begin.elapsed();
        // dig has no status of its own for a flow that is reset.
        let answered = ["peer=", "203.0.113.10"].map(|answer| said.stdout.contains(answer));
        assert_eq!(answered, [false; 2], "{client:?}: {said}");
        assert!(took < AT_ONCE, "{client:?} took {took:?}: {said}");
    }
    for target in ["8.8.8.8/443", "192.0.2.8/853"] {
        let datagram = format!("echo 1 >/dev/udp/{target}");
        daemon.run(&["bash", "-c", &datagram]).success();
    }
    // What they ask by port 53 is answered, of the same resolver too, but for its name.
    let dig = |line: &str| {
        let line = format!("dig +tries=1 +time=20 {line}");
        run(&lab, &daemon, &line).success()
    };
    for resolver in ["@8.8.8.8", "@192.0.2.8", "@2001:4860:4860::8888"] {
        let said = dig(&format!("{resolver} +short v4.test"));
        assert!(said.starts_with("198.1"), "{resolver}: {said}");
    }
    for name in ["dns.google", "www.DNS.google", "chrome.cloudflare-dns.com"] {
        for kind in ["A", "AAAA", "HTTPS", "TXT"] {
            let said = dig(&format!("{name} {kind}"));
            assert!(said.contains("status: NXDOMAIN"), "{name} {kind}: {said}");
        }
    }
    let page = run(&lab, &daemon, "curl -sS http://v4.test/").success();
    assert!(page.contains("peer=10.90.2.2:"), "{page}");
    capture.packets().assert_only_gateway();
    assert_eq!(resolver.was_asked(), before, "a managed app has asked it");

    // What is not managed asks as before.
    let line: Vec<_> = CLIENTS[3].split(' ').collect();
    let said = lab.client().run(&line).success();
    assert!(said.contains("203.0.113.10"), "{said}");

    let refused = |log: &str, flow: &str, by: &str| {
        let why = format!("refuses {by}, a resolver that encrypts (RefuseEncryptedResolvers)");
        log.lines()
            .any(|line| line.contains(flow) && line.contains(&why))
    };
    for (flow, by) in [
        ("protocol=tcp", "8.8.8.8/32"),
        ("protocol=tcp", "port 853"),
        ("protocol=tcp", "dns.google"),
        ("protocol=udp", "8.8.8.8/32"),
        ("protocol=udp", "port 853"),
    ] {
        wait_until("the refusal is told", LIMIT, || {
            refused(&daemon.process().complained(), flow, by)
        });
    }
    explained(&daemon);
}

#[track_caller]
fn explained(daemon: &Daemon<'_>) {
    for (target, way, verdict) in [
        (
            "dns.google:443",
            "refused",
            "refuses dns.google, a resolver",
        ),
        ("8.8.8.8:443", "refused", "refuses 8.8.8.8/32, a resolver"),
        (
            "203.0.113.10:853",
            "refused",
            "refuses port 853, a resolver",
        ),
        ("8.8.8.8:80", "relay", "relay through test.lab"),
    ] {
        let line = ["explain", "--json", "--target", target];
        let said = daemon.offramp(&line).success();
        let said: Value = serde_json::from_str(&said).expect("JSON was asked for");
        let decided = &said["decisions"][0];
        assert_eq!(decided["way"], way, "{target}: {said:#}");
        let told = decided["verdict"].as_str().unwrap_or_default();
        assert!(told.contains(verdict), "{target}: {said:#}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_is_excluded_is_direct_and_what_is_added_is_refused() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let resolver = Resolver::start(&lab);
    let adding = json!({
        "RefuseEncryptedResolvers": true,
        "EncryptedResolvers": ["doh.test", "192.0.2.0/24"],
    });
    let excluding =
        json!({ "ExcludedFQDNs": ["dns.google", "excluded.test"], "ExcludedDomains": [] });
    let daemon = Daemon::start_with(&lab, &[profile(adding, excluding)]);

    let capture = lab.capture();
    let said = run(&lab, &daemon, CLIENTS[0]).success();
    assert!(said.contains("peer=10.90.2.2:"), "{said}");
    let packets = capture.packets();
    let dns = |port| std::net::SocketAddr::from((offramp_tests::addresses::DNS, port));
    packets.assert_only(|packet| {
        packet.is_with(offramp_tests::addresses::GATEWAY)
            || packet.is_with(dns(53))
            || packet.is_with(([8, 8, 8, 8], 443).into())
    });
    assert!(resolver.was_asked() > 0, "the excluded resolver was asked");

    let line =
        |url| format!("curl -sS -4 --max-time 25 --cacert %ca --doh-url {url} http://v4.test/");
    let before = resolver.was_asked();
    for url in ["https://doh.test/dns-query", "https://192.0.2.8/dns-query"] {
        let begin = Instant::now();
        let said = run(&lab, &daemon, &line(url));
        let took = begin.elapsed();
        assert!(!said.status.success() && took < AT_ONCE, "{took:?}: {said}");
    }
    assert_eq!(resolver.was_asked(), before, "the added resolver was asked");

    // Exactly this name is excluded, and none below it.
    let dig = |name: &str| {
        let line = format!("dig +short +tries=1 +time=20 {name} A");
        run(&lab, &daemon, &line).success()
    };
    assert_eq!(dig("excluded.test").trim(), "203.0.113.12");
    let below = dig("www.excluded.test");
    assert!(below.starts_with("198.1"), "{below}");
}

/// A page as Chromium has it, with a resolver of its own in this mode.
fn chromium(lab: &Lab, daemon: &Daemon<'_>, mode: &str) -> Finished {
    let data = tempfile::Builder::new()
        .prefix(mode)
        .tempdir_in(lab.directory());
    let data = data.expect("the directory is ours");
    let settings = json!({
        "dns_over_https": { "mode": mode, "templates": "https://dns.google/dns-query" },
        "async_dns": { "enabled": true },
    });
    let file = data.path().join("Local State");
    std::fs::write(file, settings.to_string()).expect("the directory is ours");
    let data = format!("--user-data-dir={}", data.path().display());
    let line = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--ignore-certificate-errors",
        "--enable-features=AsyncDns,DnsOverHttps",
        &data,
        "--dump-dom",
        "https://v4.test/page",
    ];
    daemon.run(&line)
}

/// Whether Firefox gets a page, with a resolver of its own first (2) or alone (3).
fn firefox(lab: &Lab, daemon: &Daemon<'_>, mode: u8) -> bool {
    let folder = tempfile::Builder::new().tempdir_in(lab.directory());
    let folder = folder.expect("the directory is ours");
    let settings = format!(
        "user_pref(\"network.trr.mode\", {mode});
         user_pref(\"network.trr.uri\", \"https://dns.google/dns-query\");
         user_pref(\"network.trr.custom_uri\", \"https://dns.google/dns-query\");
         user_pref(\"network.captive-portal-service.enabled\", false);
         user_pref(\"network.connectivity-service.enabled\", false);
         user_pref(\"network.http.http3.enable\", false);"
    );
    std::fs::write(folder.path().join("user.js"), settings).expect("the directory is ours");
    let (profile, picture) = (folder.path().display(), folder.path().join("page.png"));
    let line = format!(
        "timeout 25 firefox-esr --headless --no-remote --profile {profile} --screenshot {} \
         http://v4.test/page",
        picture.display()
    );
    lab.servers().forget();
    daemon.run(&line.split(' ').collect::<Vec<_>>()).success();
    let seen = lab.servers().seen();
    seen.iter().any(|seen| seen.target.port() == port::HTTP)
}

/// Has Firefox believe what the lab's authority signed.
fn trust_the_lab(lab: &Lab) {
    let policies = json!({ "policies": {
        "Certificates": { "Install": [lab.authority().certificate()] }
    } });
    let file = lab.directory().join("policies.json");
    std::fs::write(&file, policies.to_string()).expect("the directory is ours");
    lab.client().sh(&format!(
        "mount -t tmpfs tmpfs /usr/lib/firefox-esr/distribution
         cp {} /usr/lib/firefox-esr/distribution/policies.json",
        file.display()
    ));
}

/// A browser asks a resolver that its user has chosen, and another where it may; in its secure mode
/// it asks no other.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn browsers_with_a_resolver_of_their_own() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let resolver = Resolver::start(&lab);
    trust_the_lab(&lab);
    let mut daemon = Daemon::start(&lab);
    let capture = lab.capture();
    let said = chromium(&lab, &daemon, "secure").success();
    assert!(said.contains("ran 42"), "{said}");
    let asked = resolver.was_asked();
    assert!(asked > 0, "chromium asked another: {said}");
    assert!(firefox(&lab, &daemon, 3), "no page");
    assert!(resolver.was_asked() > asked, "firefox asked another");
    let log = daemon.process().complained();
    for port in [80, 443] {
        let target = format!("target=203.0.113.10:{port}");
        assert!(log.contains(&target), "no name is known: {log}");
    }
    drop(daemon);

    let mut daemon = Daemon::start_with(&lab, &[profile(refusing(), json!({}))]);
    let asked = resolver.was_asked();
    let begin = Instant::now();
    let said = chromium(&lab, &daemon, "automatic").success();
    assert!(said.contains("ran 42"), "{said}");
    assert!(firefox(&lab, &daemon, 2), "no page");
    let said = chromium(&lab, &daemon, "secure");
    assert!(!said.stdout.contains("ran 42"), "{said}");
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    assert_eq!(resolver.was_asked(), asked, "a managed app has asked it");
    capture.packets().assert_only_gateway();
    let log = daemon.process().complained();
    for port in [80, 443] {
        assert!(log.contains(&format!("target=v4.test:{port}")), "{log}");
    }
    assert!(!log.contains("target=203.0.113.10:"), "{log}");
}

/// Where browsers are installed, and two programs that are none until an entry says so.
const BROWSERS: &str = "
    for folder in /usr/share/applications /usr/local/share/applications /home; do
        mkdir -p $folder; mount -t tmpfs tmpfs $folder
    done
    for name in browser editor own; do cp /usr/bin/curl $1/$name; done
    entry() { printf '[Desktop Entry]\\nExec=%s %%%%U\\nMimeType=%s\\n' \"$2\" \"$3\" >\"$1\"; }
    entry /usr/share/applications/lab.Browser.desktop $1/browser 'text/html;x-scheme-handler/https;'
    entry /usr/share/applications/lab.Editor.desktop $1/editor 'text/html;'
    mkdir -p /home/one/.local/share/applications
    entry /home/one/.local/share/applications/own.desktop $1/own 'x-scheme-handler/https;'
    chown -R 65534 /home/one";

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn browsers_are_claimed_for_their_names() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let folder = lab.directory().join("programs");
    std::fs::create_dir(&folder).expect("it is new");
    let folder = folder.display().to_string();
    let set_up = lab
        .client()
        .run(&["sh", "-euc", BROWSERS, "sh", &folder])
        .success();
    assert_eq!(set_up, "");
    let own = json!({ "BrowserDomains": ["origin.test"] });
    let daemon = Daemon::start_with(&lab, &[profile(refusing(), own)]);
    // Who the origin saw: the gateway, or the client itself.
    let peer = |user, name: &str, host: &str| {
        let program = format!("{folder}/{name}");
        let url = format!("http://{host}/");
        let said = lab.client().run_as(user, &[&program, "-sS", "-4", &url]);
        let said = said.success();
        let relayed = said.contains("peer=10.90.2.2:");
        assert!(relayed || said.contains("peer=10.90.1.2:"), "{said}");
        relayed
    };
    let (root, nobody) = (User::Root, User::Nobody);
    for (user, name, host, expected) in [
        (root, "browser", "origin.test", true),
        (nobody, "browser", "origin.test", true),
        (root, "browser", "other.test", false),
        (root, "browser", "203.0.113.10", false),
        (root, "editor", "origin.test", false),
        // A user's own entry is for this user alone.
        (nobody, "own", "origin.test", true),
        (root, "own", "origin.test", false),
    ] {
        assert_eq!(peer(user, name, host), expected, "{user:?} {name} {host}");
    }
    // The names of resolvers of their own are not told to browsers, whose others are left alone.
    let dig = format!("{folder}/browser-dig");
    lab.client().sh(&format!(
        "cp /usr/bin/dig {dig}
         printf '[Desktop Entry]\\nExec={dig}\\nMimeType=x-scheme-handler/https;\\n' \
             >/usr/share/applications/dig.desktop"
    ));
    let look_up = |name| {
        let line = [&*dig, "+tries=1", "+time=20", "@10.90.4.2", name];
        lab.client().run(&line).success()
    };
    wait_until("the browser that was installed is known", LIMIT, || {
        look_up("dns.google").contains("NXDOMAIN")
    });
    assert!(look_up("other.test").contains("203.0.113.11"));
    assert!(look_up("origin.test").contains("198.1"));

    let said = daemon.offramp(&["explain", "--exe", &format!("{folder}/browser")]);
    let said = said.success();
    assert!(said.contains("BrowserDomains: app:lab.Browser"), "{said}");
    assert!(said.contains("app:own of 65534"), "root is told: {said}");

    lab.client()
        .sh("rm /usr/share/applications/lab.Browser.desktop");
    wait_until("the browser that was removed is none", LIMIT, || {
        let line = [&*format!("{folder}/browser"), "-sS", "-4", "origin.test"];
        let said = lab.client().run(&line);
        // What was open as the rule ended is cut.
        let is_cut = !said.status.success() && !said.stderr.contains("resolve");
        assert!(is_cut || said.status.success(), "{said}");
        said.stdout.contains("peer=10.90.1.2:")
    });
}
