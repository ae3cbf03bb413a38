//! Look-ups of real programs beside the resolvers that machines have: managed ones work and no
//! resolver hears of them, unmanaged ones get the real answers, also while resolvers come and go.

#[path = "resolvers/clients.rs"]
mod clients;
#[path = "resolvers/crowd.rs"]
mod crowd;
#[path = "resolvers/old.rs"]
mod old;
#[path = "resolvers/servers.rs"]
mod servers;
#[path = "resolvers/stage.rs"]
mod stage;
#[path = "resolvers/told.rs"]
mod told;

use offramp_tests::{Gateway, Lab};

use crate::clients::{BROWSERS, Client, HEAVY, LIGHT, RESOLVECTL};
use crate::crowd::Crowd;
use crate::servers::{Kind, Resolver};
use crate::stage::{DOMAIN, Ruled, Stage};

/// Runs `managed` under the profile and then `beside` without it, each for a name of its own, and
/// returns what is wrong: with the programs, and with what resolvers have heard.
fn check_all(
    stage: &Stage<'_>,
    resolver: &Resolver<'_>,
    managed: &[&Client],
    beside: &[&Client],
) -> Vec<String> {
    let name = |client, ruled| name(resolver.kind, client, ruled);
    let heard = |client, ruled| {
        let mut heard = stage.asked_of_the_lab(&name(client, ruled));
        heard.extend(resolver.said_about(&name(client, ruled)));
        heard
    };
    let capture = stage.lab.capture();
    let mut wrong = Vec::new();
    for client in managed {
        wrong.extend(stage.check(client, &name(client, Ruled::Managed), Ruled::Managed));
    }
    capture.packets().assert_only_gateway();
    for client in beside {
        wrong.extend(stage.check(client, &name(client, Ruled::Unmanaged), Ruled::Unmanaged));
        // Or the loop below would find nothing, whatever happened.
        if heard(client, Ruled::Unmanaged).is_empty() {
            wrong.push(format!("{}, unmanaged, was not heard of", client.label));
        }
    }
    for client in managed {
        let heard = heard(client, Ruled::Managed);
        if !heard.is_empty() {
            wrong.push(format!("{} was heard of: {heard:#?}", client.label));
        }
    }
    let about = |what| format!("{:?}: {what}", resolver.kind);
    wrong.into_iter().map(about).collect()
}

/// The name that this client asks for beside this resolver, and nobody else.
fn name(kind: Kind, client: &Client, ruled: Ruled) -> String {
    let client = (client.label).replace(|one: char| !one.is_ascii_alphanumeric(), "");
    format!("{kind:?}-{ruled:?}-{client}.{DOMAIN}").to_lowercase()
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn no_resolver_hears_of_managed_programs() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    let mut wrong = Vec::new();
    for kind in Kind::ALL {
        let resolver = Resolver::start(&stage, kind);
        let mut clients: Vec<&Client> = LIGHT.iter().chain(HEAVY).collect();
        if kind.is_resolved() {
            clients.push(&RESOLVECTL);
        }
        clients.retain(|client| kind != Kind::Link || !client.wants_scope);
        let is_light = |client: &&Client| LIGHT.iter().any(|light| light.label == client.label);
        let light: Vec<&Client> = clients.iter().copied().filter(is_light).collect();
        let beside = match kind {
            Kind::Remote | Kind::Resolve => &clients[..],
            _ => &light[..],
        };
        wrong.extend(check_all(&stage, &resolver, &clients, beside));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn no_resolver_hears_of_managed_browsers() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    let mut wrong = Vec::new();
    let clients: Vec<&Client> = BROWSERS.iter().collect();
    for kind in [Kind::Unbound, Kind::Resolve] {
        let resolver = Resolver::start(&stage, kind);
        let beside = if kind == Kind::Unbound {
            &clients[..]
        } else {
            &[]
        };
        wrong.extend(check_all(&stage, &resolver, &clients, beside));
    }
    // Which the C library never asks for, and Chromium's own resolver always.
    let asked: Vec<String> = BROWSERS
        .iter()
        .map(|client| name(Kind::Unbound, client, Ruled::Unmanaged))
        .filter(|name| {
            let asked = stage.asked_of_the_lab(name);
            asked.iter().any(|query| query.contains("[HTTPS]"))
        })
        .collect();
    assert_eq!(asked.len(), 2, "with their own resolvers: {asked:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What nobody on the client may send.
const STRAY: &str = "port 853 or port 5353 or port 5355 \
                     or port 53 and not (host 10.90.4.2 or host fd00:90:4::2)";

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn resolvers_come_and_go_during_look_ups() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    let remote = Resolver::start(&stage, Kind::Remote);
    let capture = lab.capture_only(STRAY);
    let mut crowd = Crowd::start(&stage);
    crowd.goes_on();
    let mut heard = Vec::new();
    for kind in [
        Kind::Dnsmasq,
        Kind::Unbound,
        Kind::Stub,
        Kind::Resolve,
        Kind::Nscd,
    ] {
        let mut resolver = Resolver::start(&stage, kind);
        crowd.goes_on();
        resolver.reload();
        crowd.goes_on();
        crowd.gap(|| resolver.restart());
        if kind == Kind::Stub {
            stage.resolvectl(&["dns", "eth0", "fd00:90:4::2"]);
            crowd.goes_on();
            stage.resolvectl(&["revert", "eth0"]);
            crowd.goes_on();
        }
        remote.become_the_systems();
        crowd.goes_on();
        for name in crowd.unheard() {
            heard.extend(resolver.said_about(name));
        }
    }
    for name in crowd.unheard() {
        heard.extend(stage.asked_of_the_lab(name));
    }
    let (wrong, counts) = crowd.end();

    assert!(wrong.is_empty(), "{counts:?}\n{}", wrong.join("\n"));
    assert!(heard.is_empty(), "{heard:#?}");
    capture.packets().assert_only(|_| false);
}
