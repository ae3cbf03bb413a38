//! Proxy servers from Debian packages, each in the foreground in a directory of its own.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tempfile::TempDir;

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // The servers fork workers that go when their parent is told to end.
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        for _ in 0..50 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running proxy server; ends with the value.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) authority: Vec<u8>,
    _processes: Vec<Process>,
    _directory: TempDir,
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// nghttpx (HTTP/2 and HTTP/1.1 over TLS) in front of tinyproxy, which wants a password.
pub(crate) fn nghttpx() -> Proxy {
    let (directory, authority) = directory();
    let (port, behind) = (free_port(), free_port());
    let d = directory.path();
    let configuration = format!(
        "Port {behind}\nListen 127.0.0.1\nMaxClients 400\nTimeout 60\nBasicAuth user pass\n"
    );
    std::fs::write(d.join("tinyproxy.conf"), configuration).unwrap();
    let mut tinyproxy = Command::new("tinyproxy");
    tinyproxy.arg("-d").arg("-c").arg(d.join("tinyproxy.conf"));
    let mut nghttpx = Command::new("nghttpx");
    nghttpx
        .args(["--conf=/dev/null", "--http2-proxy", "--workers=1"])
        // Eight by default, and then further tunnels wait for one to end.
        .arg("--backend-connections-per-host=400")
        .arg(format!("-f127.0.0.1,{port}"))
        .arg(format!("-b127.0.0.1,{behind}"))
        .args([d.join("key.pem"), d.join("cert.pem")]);
    let processes = vec![start(tinyproxy, d, behind), start(nghttpx, d, port)];
    Proxy {
        port,
        authority,
        _processes: processes,
        _directory: directory,
    }
}

/// Apache with HTTP/2 and HTTP/1.1 CONNECT and a password; half-close works.
pub(crate) fn apache() -> Proxy {
    let (directory, authority) = directory();
    let port = free_port();
    let d = directory.path();
    let modules: String = [
        "mpm_event",
        "authn_core",
        "authn_file",
        "authz_core",
        "authz_user",
        "auth_basic",
        "ssl",
        "http2",
        "proxy",
        "proxy_connect",
    ]
    .iter()
    .map(|m| format!("LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n"))
    .collect();
    password_file(d);
    let dir = d.display();
    let configuration = format!(
        "{modules}ServerName proxy.test\nServerRoot {dir}\nMutex file:{dir}\nPidFile {dir}/pid\n\
         User www-data\nGroup www-data\nErrorLog {dir}/error.log\nListen 127.0.0.1:{port}\n\
         StartServers 1\n<VirtualHost *:{port}>\nSSLEngine on\nSSLCertificateFile {dir}/cert.pem\n\
         SSLCertificateKeyFile {dir}/key.pem\nProtocols h2 http/1.1\nH2ProxyRequests on\n\
         ProxyRequests On\nAllowCONNECT 1-65535\n<Proxy \"*\">\nAuthType Basic\nAuthName proxy\n\
         AuthUserFile {dir}/htpw\nRequire valid-user\n</Proxy>\n</VirtualHost>\n"
    );
    std::fs::write(d.join("apache.conf"), configuration).unwrap();
    let mut apache = Command::new("/usr/sbin/apache2");
    apache
        .arg("-f")
        .arg(d.join("apache.conf"))
        .args(["-D", "FOREGROUND"]);
    let processes = vec![start(apache, d, port)];
    Proxy {
        port,
        authority,
        _processes: processes,
        _directory: directory,
    }
}

/// squid with HTTP/1.1 CONNECT over TLS, without ALPN, and a password.
pub(crate) fn squid() -> Proxy {
    let (directory, authority) = directory();
    let (port, plain) = (free_port(), free_port());
    let d = directory.path();
    password_file(d);
    let dir = d.display();
    let configuration = format!(
        "https_port 127.0.0.1:{port} tls-cert={dir}/cert.pem tls-key={dir}/key.pem\n\
         http_port 127.0.0.1:{plain}\nvisible_hostname proxy.test\n\
         auth_param basic program /usr/lib/squid/basic_ncsa_auth {dir}/htpw\n\
         acl authed proxy_auth REQUIRED\nhttp_access allow authed\nhttp_access deny all\n\
         cache deny all\ncache_log {dir}/cache.log\naccess_log none\npid_filename {dir}/pid\n\
         coredump_dir none\nshutdown_lifetime 0 seconds\n"
    );
    std::fs::write(d.join("squid.conf"), configuration).unwrap();
    // It gives up root for the user `proxy`.
    let owned = Command::new("chown").args(["-R", "proxy"]).arg(d).status();
    assert!(owned.unwrap().success());
    let mut squid = Command::new("squid");
    squid.arg("-N").arg("-f").arg(d.join("squid.conf"));
    let processes = vec![start(squid, d, port)];
    Proxy {
        port,
        authority,
        _processes: processes,
        _directory: directory,
    }
}

fn start(mut command: Command, directory: &Path, port: u16) -> Process {
    let log = std::fs::File::create(directory.join(format!("{port}.log"))).unwrap();
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: run scripts/deps"));
    let mut process = Process(child);
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        let log = || std::fs::read_to_string(directory.join(format!("{port}.log")));
        assert!(Instant::now() < until, "{command:?}: {:?}", log());
        assert!(
            process.0.try_wait().unwrap().is_none(),
            "{command:?}: {:?}",
            log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    process
}

fn password_file(directory: &Path) {
    let hash = Command::new("openssl")
        .args(["passwd", "-apr1", "pass"])
        .output()
        .unwrap();
    let line = format!("user:{}", String::from_utf8(hash.stdout).unwrap());
    std::fs::write(directory.join("htpw"), line).unwrap();
}

/// A directory with a certificate for `proxy.test`, `localhost` and 127.0.0.1; its authority.
fn directory() -> (TempDir, Vec<u8>) {
    let directory = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["proxy.test", "localhost", "127.0.0.1"].map(str::to_owned);
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let d = directory.path();
    std::fs::write(d.join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(d.join("key.pem"), key.serialize_pem()).unwrap();
    (directory, authority.pem().into_bytes())
}
