//! The programs that look names up, each by its own way.

/// A program that looks a name up; `{name}` stands for the name, `{dir}` for the lab's directory.
pub(crate) struct Client {
    pub(crate) label: &'static str,
    pub(crate) line: &'static [&'static str],
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// It prints the addresses that it got.
    pub(crate) shows: bool,
    /// It opens a flow to the name.
    pub(crate) visits: bool,
    /// It ends with status 0.
    pub(crate) ends_well: bool,
    /// It takes answers from the address and the link that it asked alone.
    pub(crate) wants_scope: bool,
    /// Under the profile, it has nobody to ask.
    pub(crate) is_shut_out: bool,
}

const BASE: Client = Client {
    label: "",
    line: &[],
    environment: &[],
    shows: false,
    visits: false,
    ends_well: true,
    wants_scope: false,
    is_shut_out: false,
};

const fn shows(label: &'static str, line: &'static [&'static str]) -> Client {
    Client {
        label,
        line,
        shows: true,
        ..BASE
    }
}

const fn visits(label: &'static str, line: &'static [&'static str]) -> Client {
    Client {
        label,
        line,
        visits: true,
        ..BASE
    }
}

const fn both(label: &'static str, line: &'static [&'static str]) -> Client {
    Client {
        shows: true,
        ..visits(label, line)
    }
}

const PYTHON: &str = "import socket, sys, urllib.request
for found in socket.getaddrinfo(sys.argv[1], 80): print(found[4][0])
print(urllib.request.urlopen(f'http://{sys.argv[1]}/', timeout=20).read())";

const DNSPYTHON: &str = "import dns.resolver, sys
for kind in 'A', 'AAAA': print(dns.resolver.resolve(sys.argv[1], kind)[0])";

const NODE: &str = "const dns = require('dns').promises, name = process.argv[1];
(async () => {
  console.log(await dns.lookup(name, { all: true }));
  console.log(await dns.resolve4(name), await dns.resolve6(name));
  console.log(await (await fetch('http://' + name + '/')).text());
})()";

/// Those that start at once.
pub(crate) const LIGHT: &[Client] = &[
    shows(
        "dig",
        &["dig", "+short", "+tries=2", "{name}", "A", "{name}", "AAAA"],
    ),
    shows("dig +tcp", &["dig", "+short", "+tcp", "{name}"]),
    shows("host", &["host", "{name}"]),
    shows("nslookup", &["nslookup", "{name}"]),
    shows("busybox nslookup", &["/bin/busybox", "nslookup", "{name}"]),
    shows("getent hosts", &["getent", "hosts", "{name}"]),
    shows("getent ahosts", &["getent", "ahosts", "{name}"]),
    both("glibc", &["{dir}/ask", "{name}"]),
    Client {
        wants_scope: true,
        ..both("musl, static", &["{dir}/ask-musl", "{name}"])
    },
    both("Python", &["/usr/bin/python3", "-c", PYTHON, "{name}"]),
    Client {
        wants_scope: true,
        ..shows(
            "dnspython",
            &["/usr/bin/python3", "-c", DNSPYTHON, "{name}"],
        )
    },
    visits("curl", &["curl", "-sS", "http://{name}/"]),
    visits("wget", &["wget", "-qO-", "http://{name}/"]),
    visits(
        "busybox wget",
        &["/bin/busybox", "wget", "-qO-", "http://{name}/"],
    ),
    Client {
        environment: &[("GODEBUG", "netdns=go")],
        ..visits("Go's own", &["hey", "-n", "1", "-c", "1", "http://{name}/"])
    },
    Client {
        environment: &[("GODEBUG", "netdns=cgo")],
        ..visits(
            "Go by glibc",
            &["hey", "-n", "1", "-c", "1", "http://{name}/"],
        )
    },
    Client {
        ends_well: false,
        ..visits("ssh", &["ssh", "-F", "/dev/null", "-p", "2002", "{name}"])
    },
    Client {
        ends_well: false,
        ..visits("git", &["git", "ls-remote", "http://{name}/none.git"])
    },
];

/// Those that take a moment to start.
pub(crate) const HEAVY: &[Client] = &[
    both(
        "Node, getaddrinfo and c-ares",
        &["node", "-e", NODE, "{name}"],
    ),
    both(
        "Java",
        &[
            "java",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            "{dir}",
            "Ask",
            "{name}",
        ],
    ),
    both(
        "Java, IPv4 alone",
        &[
            "java",
            "-XX:TieredStopAtLevel=1",
            "-Djava.net.preferIPv4Stack=true",
            "-cp",
            "{dir}",
            "Ask",
            "{name}",
        ],
    ),
    both(
        "Java, IPv6 first",
        &[
            "java",
            "-XX:TieredStopAtLevel=1",
            "-Djava.net.preferIPv6Addresses=true",
            "-cp",
            "{dir}",
            "Ask",
            "{name}",
        ],
    ),
];

/// What asks systemd-resolved itself, over the system bus.
pub(crate) const RESOLVECTL: Client = Client {
    is_shut_out: true,
    ..shows(
        "resolvectl",
        &["env", "{libraries}", "{resolvectl}", "query", "{name}"],
    )
};

/// Those that people look at pages with; each start has a directory of its own.
pub(crate) const BROWSERS: &[Client] = &[
    visits(
        "Chromium, its own resolver",
        &[
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-features=AsyncDns",
            "--user-data-dir={dir}/{name}-own",
            "--dump-dom",
            "http://{name}/page",
        ],
    ),
    visits(
        "Chromium, the system's",
        &[
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-features=AsyncDns",
            "--user-data-dir={dir}/{name}-system",
            "--dump-dom",
            "http://{name}/page",
        ],
    ),
    visits(
        "Firefox",
        &[
            "sh",
            "-c",
            "mkdir -p $1/$0-firefox && exec firefox-esr --headless --no-remote --profile $1/$0-firefox --screenshot $1/$0.png http://$0/page",
            "{name}",
            "{dir}",
        ],
    ),
];
