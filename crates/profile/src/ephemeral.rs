use offramp_rules::{Layer, ProfileId, UnavailableAction};

use crate::problem::{Code, Problem};
use crate::profile::{Asset, Authentication, Method, Profile, Server};
use crate::read::{default_v4, hash, no_source};
use crate::secret::Secret;
use crate::url::ServerUrl;

/// Makes the profile of `offramp run --server URL`: one server, nothing excluded, in the user's
/// layer. `url` is `https://[USER:PASSWORD@]HOST[:PORT]`; `anchors_pem` are the certificates to
/// trust instead of the system's.
pub fn ephemeral(id: &str, url: &str, anchors_pem: Option<Vec<u8>>) -> Result<Profile, Problem> {
    let problem = |message: String, hint: Option<String>| Problem {
        code: Code::IsInvalid,
        file: None,
        line: 0,
        column: 0,
        key_path: String::new(),
        message,
        hint,
    };
    let parsed = ServerUrl::parse(url).map_err(|fault| Problem {
        code: fault.code,
        ..problem(
            format!("the server's URL is wrong: {}", fault.message),
            fault.hint,
        )
    })?;
    let anchors = anchors_pem.map(String::from_utf8).transpose().ok();
    let anchors = anchors
        .filter(|pem| {
            pem.as_ref()
                .is_none_or(|pem| pem.contains("-----BEGIN CERTIFICATE-----"))
        })
        .ok_or_else(|| {
            let hint = "give a file with -----BEGIN CERTIFICATE-----".to_owned();
            problem("the certificates are not PEM".to_owned(), Some(hint))
        })?;
    let server = Server {
        name: parsed.name(),
        server_name: parsed.host.clone(),
        host: parsed.host,
        port: parsed.port,
        anchors: anchors.map(|pem| Asset::Inline(Secret::from(pem))),
        authentication: parsed.credentials.map(|secret| Authentication {
            method: Method::Password,
            asset: Asset::Inline(secret),
        }),
    };
    Ok(Profile {
        visible_name: server.name.clone(),
        description: None,
        organization: None,
        token: hash(id),
        revision: 0,
        browser_domains: Vec::new(),
        servers: vec![server],
        synthetic_v4: default_v4(),
        synthetic_v6: None,
        allow_inbound: false,
        overridable: Default::default(),
        removal_disallowed: false,
        source: no_source(),
        rules: offramp_rules::Profile {
            layer: Layer::User,
            order: 1000,
            id: ProfileId::new(id),
            enabled: true,
            rules: Vec::new(),
            excluded_domains: Vec::new(),
            excluded_fqdns: Vec::new(),
            excluded_routes: Vec::new(),
            exclude_local_networks: false,
            unavailable: UnavailableAction::Drop,
            owner: None,
            real_addresses: false,
            refuse_encrypted: false,
            encrypted_resolvers: Vec::new(),
            overlays: Default::default(),
        },
    })
}
