//! The name in a request of HTTP/1 (RFC 9112 section 3).

use httparse::{EMPTY_HEADER, Request, Status};
use hyper::http::Uri;
use hyper::http::uri::Authority;
use offramp_control::ToldBy;

use super::{Found, Sniffed, domain};

/// More fields than this are no request of a usual client.
const FIELDS: usize = 100;
/// The longest method there is (IANA's registry) has 17.
const LONGEST_METHOD: usize = 17;

/// What the beginning of a TCP flow comes to.
pub(crate) fn request(bytes: &[u8]) -> Found {
    if !begins_like_a_method(bytes) {
        return Found::Nothing;
    }
    let mut fields = [EMPTY_HEADER; FIELDS];
    let mut request = Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Found::More,
        // HTTP/2, or something else.
        Err(_) => return Found::Nothing,
    }
    let by = ToldBy::Host;
    host(&request)
        .and_then(|host| domain(host.host()))
        .map_or(Found::Nothing, |name| Found::Name(Sniffed { name, by }))
}

/// So that what is not HTTP is not waited for.
fn begins_like_a_method(bytes: &[u8]) -> bool {
    let method = bytes.iter().position(|byte| *byte == b' ');
    let (method, is_whole) = match method {
        Some(end) => (&bytes[..end], true),
        None => (bytes, false),
    };
    let is_letter = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    method.len() <= LONGEST_METHOD
        && method.iter().all(is_letter)
        && (!is_whole || !method.is_empty())
}

/// The target goes before the field, of which there may be one alone.
fn host(request: &Request<'_, '_>) -> Option<Authority> {
    let target: Option<Uri> = request.path.and_then(|path| path.parse().ok());
    if let Some(authority) = target.as_ref().and_then(Uri::authority) {
        return Some(authority.clone());
    }
    let mut fields = request.headers.iter();
    let mut fields = fields
        .by_ref()
        .filter(|field| field.name.eq_ignore_ascii_case("host"));
    let (field, another) = (fields.next()?, fields.next());
    match another {
        Some(_) => None,
        None => Authority::try_from(field.value).ok(),
    }
}
