use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::str::FromStr;

use offramp_rules::{DomainName, Identity, Layer, Rule};

use super::default_v4;
use crate::check::{Fault, asset};
use crate::json::Value;
use crate::problem::Code;
use crate::profile::{Asset, Authentication, Profile, Server, Source};
use crate::url::{self, ServerUrl};
use crate::written;

/// Makes a profile of a declaration that was checked. What fails here was missed by the check,
/// and is told as a problem all the same.
pub(super) fn build(
    value: &Value<'_>,
    layer: Layer,
    owner: Option<u32>,
    source: &Source,
) -> Result<Profile, Fault> {
    let written: written::Declaration = serde_json::from_str(value.text)
        .map_err(|e| Fault::new(Code::CannotBeDeserialized, e.to_string()))?;
    let payload = written.payload;
    let rules = offramp_rules::Profile {
        layer,
        order: payload.order.unwrap_or(1000),
        id: crate::profile::id(&written.identifier, owner),
        owner,
        overlays: Default::default(),
        enabled: payload.enabled.unwrap_or(true),
        rules: app_rules(payload.app_rules)?,
        excluded_domains: domains(payload.excluded_domains)?,
        excluded_fqdns: domains(payload.excluded_fqdns)?,
        excluded_routes: each(payload.network_routing.excluded_routes, |text| parse(&text))?,
        exclude_local_networks: payload
            .network_routing
            .exclude_local_networks
            .unwrap_or(false),
        unavailable: payload.unavailable_action.into(),
        real_addresses: payload.dns.real_addresses,
        refuse_encrypted: payload.dns.refuse_encrypted_resolvers,
        encrypted_resolvers: each(payload.dns.encrypted_resolvers, |text| parse(&text))?,
    };
    Ok(Profile {
        rules,
        visible_name: payload.visible_name,
        description: written.payload_description,
        organization: written.payload_organization,
        token: written.server_token.unwrap_or_else(|| hash(value.text)),
        revision: written.revision,
        browser_domains: domains(payload.browser_domains)?,
        servers: each(payload.servers, |written| server(written, owner))?,
        synthetic_v4: match payload.dns.v4 {
            Some(text) => parse(&text)?,
            None => default_v4(),
        },
        synthetic_v6: payload.dns.v6.map(|text| parse(&text)).transpose()?,
        allow_inbound: payload.allow_inbound,
        overridable: payload.user_overridable_keys,
        removal_disallowed: written
            .payload_removal_disallowed
            .unwrap_or(layer == Layer::Managed),
        source: source.clone(),
    })
}

fn server(written: written::Server, owner: Option<u32>) -> Result<Server, Fault> {
    let url = ServerUrl::parse(&written.url)?;
    let credential = |text: String| {
        let name = asset(&text)?.to_owned();
        Ok(match owner {
            Some(owner) => Asset::Own { owner, name },
            None => Asset::Credential(name),
        })
    };
    let authentication = |written: written::Authentication| {
        Ok(Authentication {
            method: written.method,
            asset: credential(written.credentials_asset_reference)?,
        })
    };
    Ok(Server {
        name: written.name.unwrap_or_else(|| url.name()),
        server_name: match written.tls.server_name {
            Some(name) => url::host(&name)?,
            None => url.host.clone(),
        },
        host: url.host,
        port: url.port,
        anchors: written
            .tls
            .anchors_asset_reference
            .map(credential)
            .transpose()?,
        authentication: written.authentication.map(authentication).transpose()?,
    })
}

fn app_rules(written: Vec<written::AppRule>) -> Result<Vec<Rule>, Fault> {
    let mut rules = each(written, rule)?;
    name_apart(&mut rules);
    Ok(rules)
}

fn rule(written: written::AppRule) -> Result<Rule, Fault> {
    let identity: Identity = parse(&written.signing_identifier)?;
    Ok(Rule {
        identifier: written.identifier.unwrap_or(written.signing_identifier),
        path: written.path,
        requirement: written
            .designated_requirement
            .map(|text| parse(&text))
            .transpose()?,
        user: written.user.map(|text| parse(&text)).transpose()?,
        domains: domains(written.match_domains)?,
        tools: app_rules(written.match_tools)?,
        ..Rule::new(identity)
    })
}

/// Gives every rule a name of its own: of several with one name, the second is shown as `NAME#2`.
fn name_apart(rules: &mut [Rule]) {
    let mut taken: HashSet<String> = rules.iter().map(|rule| rule.identifier.clone()).collect();
    let mut seen: HashMap<String, u32> = HashMap::new();
    for rule in rules {
        let count = seen.entry(rule.identifier.clone()).or_default();
        *count += 1;
        if *count == 1 {
            continue;
        }
        let mut name = format!("{}#{count}", rule.identifier);
        while !taken.insert(name.clone()) {
            *count += 1;
            name = format!("{}#{count}", rule.identifier);
        }
        rule.identifier = name;
    }
}

fn domains(written: Vec<String>) -> Result<Vec<DomainName>, Fault> {
    each(written, |text| {
        DomainName::parse(&text).map_err(|e| Fault::invalid(e.to_string()))
    })
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, Fault> {
    text.parse()
        .map_err(|e: T::Err| Fault::invalid(e.to_string()))
}

fn each<T, U>(list: Vec<T>, make: impl Fn(T) -> Result<U, Fault>) -> Result<Vec<U>, Fault> {
    list.into_iter().map(make).collect()
}

/// FNV-1a with 128 bits: tells revisions apart, and is no proof against forgery.
pub(crate) fn hash(text: &str) -> String {
    let mut state: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in text.bytes() {
        state = (state ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
    }
    format!("{state:032x}")
}
