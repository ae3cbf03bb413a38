//! Look-ups of real programs beside the resolvers that machines have: managed ones work and no
//! resolver hears of them, unmanaged ones get the real answers.

#[path = "resolvers/clients.rs"]
mod clients;
#[path = "resolvers/servers.rs"]
mod servers;
#[path = "resolvers/stage.rs"]
mod stage;

use offramp_tests::{Gateway, Lab};

use crate::clients::{BROWSERS, Client, HEAVY, LIGHT};
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
    let tag = format!("{:?}", resolver.kind).to_lowercase();
    let name = |client: &Client, ruled: Ruled| {
        let client = client
            .label
            .replace(|one: char| !one.is_ascii_alphanumeric(), "");
        format!("{tag}-{ruled:?}-{client}.{DOMAIN}").to_lowercase()
    };
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

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn no_resolver_hears_of_managed_programs() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    let mut wrong = Vec::new();
    for kind in Kind::ALL {
        let resolver = Resolver::start(&stage, kind);
        let clients: Vec<&Client> = LIGHT.iter().chain(HEAVY).collect();
        wrong.extend(check_all(&stage, &resolver, &clients, &clients));
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
    for kind in [Kind::Unbound, Kind::Resolve] {
        let resolver = Resolver::start(&stage, kind);
        let clients: Vec<&Client> = BROWSERS.iter().collect();
        let beside = if kind == Kind::Resolve {
            &clients[..]
        } else {
            &[]
        };
        wrong.extend(check_all(&stage, &resolver, &clients, beside));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
