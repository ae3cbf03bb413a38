//! Doors of name resolution besides port 53, with the real servers behind them.

use std::time::Duration;

use offramp_tests::{ALL_MODULES, Lab, Resolvers, Running};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn unmanaged_programs_are_answered_by_every_door() {
    let lab = Lab::new();
    let client = Resolvers::prepare(lab.client(), lab.directory());
    let router = Resolvers::prepare(lab.router(), lab.directory());
    let _bus = client.start_bus();
    let resolved = client.start_resolved("DNS=10.90.4.2\nLLMNR=no\nMulticastDNS=no");
    let _avahi = client.start_avahi("client", "eth0", true);
    let _neighbour = router.start_avahi("neighbour", "client", false);
    let tool = |program: &str, arguments: &[&str]| {
        let mut command = client.command(program);
        command.args(arguments);
        Running::start(command).finish(LIMIT).success()
    };
    let getent = |name| lab.client().run(&["getent", "ahosts", name]).success();

    client.set_hosts(ALL_MODULES);
    assert!(getent("origin.test").contains("203.0.113.10"));
    assert!(resolved.complained().contains("\"name\":\"origin.test\""));
    assert!(tool("usr/bin/resolvectl", &["query", "v6.test"]).contains("2001:db8::10"));
    let neighbour = tool("usr/bin/avahi-resolve", &["-4", "-n", "neighbour.local"]);
    assert!(neighbour.contains("10.90.1.1"), "{neighbour}");
    client.set_hosts("files mdns4_minimal [NOTFOUND=return] dns");
    assert!(getent("neighbour.local").contains("10.90.1.1"));
    client.set_hosts("files dns");
    client.set_resolv_conf("nameserver 10.90.4.2\n");
    let nscd = client.start_nscd();
    assert!(getent("v4.test").contains("203.0.113.10"));
    assert!(nscd.complained().contains("GETAI (v4.test)"));
}
