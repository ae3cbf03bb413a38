//! Servers that are programs of their own: names, shells, a database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::addresses::{BLACK_HOLE, BLACK_HOLE6, DNS, ORIGIN, ORIGIN6};
use crate::host::{Host, User};
use crate::process::{Running, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// The name server of the lab.
#[derive(Debug)]
pub struct Names {
    _server: Running,
    log: PathBuf,
}

impl Names {
    /// Starts dnsmasq on `host`, which knows the names of the lab and no others.
    pub(crate) fn start(host: &Host, directory: &Path) -> Self {
        let log = directory.join("dns.log");
        let records = [
            format!("--host-record=origin.test,{ORIGIN},{ORIGIN6}"),
            format!("--host-record=v4.test,{ORIGIN}"),
            format!("--host-record=v6.test,{ORIGIN6}"),
            "--host-record=excluded.test,203.0.113.12,2001:db8::12".to_owned(),
            "--host-record=other.test,203.0.113.11,2001:db8::11".to_owned(),
            format!("--host-record=hole.test,{BLACK_HOLE},{BLACK_HOLE6}"),
            "--host-record=proxy.test,10.90.2.2,fd00:90:2::2".to_owned(),
            "--host-record=dns.google,8.8.8.8,2001:4860:4860::8888".to_owned(),
            "--host-record=doh.test,192.0.2.8".to_owned(),
            "--address=/wild.test/203.0.113.13".to_owned(),
            "--local=/apps.test/".to_owned(),
            "--address=/apps.test/203.0.113.15".to_owned(),
            "--address=/apps.test/2001:db8::15".to_owned(),
            "--txt-record=origin.test,a text of the origin".to_owned(),
            "--mx-host=origin.test,mail.wild.test,10".to_owned(),
            // Two names with one address, and names that lead to each other's domains.
            "--host-record=near.test,far.test,203.0.113.14".to_owned(),
            "--host-record=near.far.test,notnear.test,203.0.113.15".to_owned(),
            "--host-record=xn--bcher-kva.near.test,203.0.113.14".to_owned(),
            "--host-record=_odd.near.test,203.0.113.14".to_owned(),
            "--cname=alias.near.test,far.test".to_owned(),
            "--cname=alias.far.test,near.test".to_owned(),
            "--srv-host=_web._tcp.near.test,far.test,80".to_owned(),
            "--cname=alias.test,origin.test".to_owned(),
            "--host-record=loopback.test,127.0.0.1,::1".to_owned(),
            // Alone: a client of HTTPS gets `1 . alpn=h2 ipv4hint=203.0.113.11`.
            "--dns-rr=hints.test,65,0001000001000302683200040004cb00710b".to_owned(),
        ];
        let mut command = host.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ]);
        command.args([
            "--local=//",
            "--user=root",
            "--log-queries=extra",
            "--pid-file=",
        ]);
        command.arg(format!("--log-facility={}", log.display()));
        command.args(records);
        let server = Running::start(command);
        wait_until("dnsmasq answers", LIMIT, || {
            host.run(&[
                "dig",
                "+short",
                "+time=1",
                "+tries=1",
                &format!("@{DNS}"),
                "v4.test",
            ])
            .stdout
            .contains(&ORIGIN.to_string())
        });
        Self {
            _server: server,
            log,
        }
    }

    /// The queries so far, as dnsmasq logs them: `query[A] origin.test from 10.90.1.2`.
    pub fn queries(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let queries = log
            .lines()
            .filter_map(|line| line.find("query[").map(|at| &line[at..]));
        queries.map(String::from).collect()
    }
}

/// An SSH server on the origin and the key that opens it.
#[derive(Debug)]
pub struct Shell {
    _server: Running,
    keys: PathBuf,
}

impl Shell {
    /// Starts sshd for root on port 22 of `host`; the keys lie in `directory`.
    pub fn start(host: &Host, directory: &Path) -> Self {
        let path = directory.display();
        host.sh(&format!(
            "mkdir -p /run/sshd {path}/ssh
             ssh-keygen -q -t ed25519 -N '' -f {path}/ssh/host
             ssh-keygen -q -t ed25519 -N '' -f {path}/ssh/user
             cp {path}/ssh/user.pub {path}/ssh/authorized
             install -m 600 -o 65534 {path}/ssh/user {path}/ssh/nobody"
        ));
        let config = format!(
            "ListenAddress 0.0.0.0\nListenAddress ::\nHostKey {path}/ssh/host\nPidFile none\n\
             AuthorizedKeysFile {path}/ssh/authorized\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nUseDNS no\n\
             Subsystem sftp internal-sftp\n"
        );
        let file = directory.join("ssh/sshd_config");
        std::fs::write(&file, config).expect("the directory is ours");
        let file = file.display().to_string();
        let server = host.spawn(&["/usr/sbin/sshd", "-D", "-e", "-f", &file]);
        wait_for_port(host, 22);
        Self {
            _server: server,
            keys: directory.join("ssh"),
        }
    }

    /// What `user` needs to get in, as arguments for `ssh` and `scp`.
    pub fn arguments(&self, user: User) -> Vec<String> {
        let key = match user {
            User::Root => "user",
            User::Nobody => "nobody",
        };
        let arguments = format!(
            "-F /dev/null -i {}/{key} -o StrictHostKeyChecking=no -o LogLevel=ERROR \
             -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o ConnectTimeout=10",
            self.keys.display()
        );
        arguments.split_whitespace().map(String::from).collect()
    }
}

/// A database on the origin that lets everybody in.
#[derive(Debug)]
pub struct Postgres {
    _server: Running,
}

impl Postgres {
    /// Starts PostgreSQL on port 5432 of `host` with its files in a new directory.
    pub fn start(host: &Host, directory: &Path) -> Self {
        let data = directory.join("postgres");
        let data = data.display();
        let programs = host.sh("ls -d /usr/lib/postgresql/*/bin | tail -n 1");
        let programs = programs.trim();
        host.sh(&format!(
            "install -d -o postgres {data}
             setpriv --reuid=postgres --regid=postgres --init-groups \
                 {programs}/initdb --auth=trust --no-sync --username=postgres -D {data} >/dev/null
             echo 'host all all all trust' >> {data}/pg_hba.conf"
        ));
        let mut command = host.command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        command.arg(format!("{programs}/postgres"));
        command.args([
            "-D",
            &data.to_string(),
            "-c",
            "listen_addresses=*",
            "-c",
            "fsync=off",
        ]);
        command.args(["-c", "unix_socket_directories="]);
        let server = Running::start(command).stop_with(Signal::SIGQUIT);
        wait_for_port(host, 5432);
        Self { _server: server }
    }
}

/// Waits until somebody on `host` accepts TCP on `port`.
pub(crate) fn wait_for_port(host: &Host, port: u16) {
    wait_until(
        &format!("port {port} of {} accepts", host.name()),
        LIMIT,
        || {
            let listening = host
                .run(&["ss", "-Htnl", &format!("sport = :{port}")])
                .success();
            !listening.trim().is_empty()
        },
    );
}
