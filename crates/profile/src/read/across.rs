use std::collections::HashMap;

use offramp_rules::{Layer, Prefix};

use super::default_v4;
use crate::check::{Check, Fault, join};
use crate::json::Value;
use crate::url::ServerUrl;

/// What one key says about another.
pub(super) fn check(value: &Value<'_>, path: &str, layer: Layer, check: &mut Check) {
    let Some(payload) = value.key("Payload") else {
        return;
    };
    let path = join(path, "Payload");
    server_names(payload, &path, check);
    synthetic_blocks(payload, &path, check);
    app_rules(payload, &path, layer, check);
    encrypted_resolvers(payload, &path, check);
    if let (Layer::User, Some(keys)) = (layer, payload.key("UserOverridableKeys")) {
        let fault = Fault::invalid("has no place in a user's own profile")
            .hint("leave it out: it is the user's anyway");
        check.report(keys.at, &join(&path, "UserOverridableKeys"), fault);
    }
}

/// Alone, a list of resolvers would refuse nothing.
fn encrypted_resolvers(payload: &Value<'_>, path: &str, check: &mut Check) {
    let dns = payload.key("DNS");
    let key = |key| dns.and_then(|dns| dns.key(key));
    if let Some(list) = key("EncryptedResolvers")
        && key("RefuseEncryptedResolvers").is_none_or(|refuse| refuse.text.trim() != "true")
    {
        let fault = Fault::invalid("has no effect without RefuseEncryptedResolvers")
            .hint("write \"RefuseEncryptedResolvers\": true beside it");
        check.report(list.at, &join(path, "DNS.EncryptedResolvers"), fault);
    }
}

/// How many rules a profile may have, tools included.
const MOST_RULES: usize = 5000;

fn app_rules(payload: &Value<'_>, path: &str, layer: Layer, check: &mut Check) {
    let Some(rules) = payload.key("AppRules") else {
        return;
    };
    let path = join(path, "AppRules");
    let tools = |rule: &Value<'_>| {
        rule.key("MatchTools")
            .map_or(0, |tools| tools.elements().len())
    };
    let count: usize = rules.elements().iter().map(|rule| 1 + tools(rule)).sum();
    if count > MOST_RULES {
        let message = format!("has {count} rules and tools, and may have {MOST_RULES}");
        check.report(
            rules.at,
            &path,
            Fault::invalid(message).hint("make several profiles"),
        );
    }
    if layer == Layer::User {
        machine_identities(rules, &path, check);
    }
}

/// What a user's profile may not name.
fn machine_identities(rules: &Value<'_>, path: &str, check: &mut Check) {
    for (index, rule) in rules.elements().iter().enumerate() {
        let path = format!("{path}[{index}]");
        if let Some(identity) = rule.key("SigningIdentifier")
            && let Some((kind @ ("unit" | "cgroup"), _)) =
                identity.string().and_then(|text| text.split_once(':'))
        {
            let fault = Fault::invalid(format!("a user's profile cannot name {kind}:"))
                .hint("name user-unit:, exe: or the app");
            check.report(identity.at, &join(&path, "SigningIdentifier"), fault);
        }
        if let Some(tools) = rule.key("MatchTools") {
            machine_identities(tools, &join(&path, "MatchTools"), check);
        }
    }
}

fn server_names(payload: &Value<'_>, path: &str, check: &mut Check) {
    let mut seen = HashMap::new();
    let servers = payload.key("Servers").map_or(&[][..], Value::elements);
    for (index, server) in servers.iter().enumerate() {
        let url = server.key("URL").and_then(Value::string);
        let host = || Some(ServerUrl::parse(url?).ok()?.name());
        let written = server.key("Name").and_then(Value::string);
        let Some(name) = written.map(str::to_owned).or_else(host) else {
            continue;
        };
        if let Some(first) = seen.insert(name.clone(), index) {
            let place = server.key("Name").unwrap_or(server);
            let fault = Fault::invalid(format!("Servers[{first}] is called {name} too"))
                .hint("give each server a Name of its own");
            check.report(place.at, &format!("{path}.Servers[{index}].Name"), fault);
        }
    }
}

/// A synthetic address in an excluded block would be reached directly, and stand for nothing.
fn synthetic_blocks(payload: &Value<'_>, path: &str, check: &mut Check) {
    let block = |value: &Value<'_>| value.string()?.parse::<Prefix>().ok();
    let dns = |key| {
        payload
            .key("DNS")
            .and_then(|dns| dns.key(key))
            .and_then(block)
    };
    let synthetic = [
        dns("SyntheticDNSAnswerIPv4Prefix").or(Some(default_v4())),
        dns("SyntheticDNSAnswerIPv6Prefix"),
    ];
    let routes = payload
        .key("NetworkRouting")
        .and_then(|routing| routing.key("ExcludedRoutes"))
        .map_or(&[][..], Value::elements);
    for (index, route) in routes.iter().enumerate() {
        let Some(excluded) = block(route) else {
            continue;
        };
        for synthetic in synthetic.iter().flatten() {
            if synthetic.overlaps(&excluded) {
                let fault = Fault::invalid(format!(
                    "overlaps {synthetic}, whose addresses stand for names"
                ))
                .hint("change the route or DNS.SyntheticDNSAnswerIPv4Prefix");
                let path = format!("{path}.NetworkRouting.ExcludedRoutes[{index}]");
                check.report(route.at, &path, fault);
            }
        }
    }
}
