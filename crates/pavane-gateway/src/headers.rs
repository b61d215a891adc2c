//! Headers between client and service: what ends at a hop, what the gateway adds, and what nobody may smuggle in.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use pavane_core::units::Block;

use crate::upstream::balance;

/// Headers that are about one connection (RFC 9110, section 7.6.1, and what older software sends).
fn is_of_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
    )
}

/// What a proxy says about the client; believed of trusted ones only.
fn is_forwarded(name: &str) -> bool {
    matches!(
        name,
        "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-forwarded-port"
            | "x-real-ip"
            | "x-forwarded-prefix"
    )
}

/// What only the gateway may say: names of its own, and names with underscores, which some services cannot tell from
/// those with hyphens.
fn is_reserved(name: &str) -> bool {
    name.starts_with("pavane-") || name.contains('_')
}

const FORWARDED: HeaderName = header::FORWARDED;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The name under which a request is known in logs on both sides.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a trusted proxy.
const MAX_REQUEST_ID: usize = 128;

/// Removes what is about the connection an answer came by.
pub(crate) fn end_hop(headers: &mut HeaderMap) {
    remove(headers, is_of_hop);
}

/// Removes of a request what is about the connection it came by, what only the gateway may say, what the new hop says
/// anew (but for `Host`, which each attempt replaces), and, unless it came from a trusted proxy, what only such a one may
/// say.
pub(crate) fn end_request_hop(headers: &mut HeaderMap, trusted: bool) {
    remove(headers, |name| {
        is_of_hop(name)
            || is_reserved(name)
            || matches!(name, "content-length" | "expect")
            || !trusted && is_forwarded(name)
    });
}

/// Removes headers by their names, and those that `Connection` names, in one look at each: most messages have nothing to
/// remove. `TE: trailers` is what gRPC needs and harms nobody.
fn remove(headers: &mut HeaderMap, ends: impl Fn(&str) -> bool) {
    let mut gone: Vec<HeaderName> = Vec::new();
    let mut trailers = false;
    for name in headers.keys().filter(|name| ends(name.as_str())) {
        if name == header::CONNECTION {
            gone.extend(tokens(headers, name).filter_map(|name| HeaderName::try_from(name).ok()));
        } else if name == header::TE {
            trailers = tokens(headers, name).any(|t| t.eq_ignore_ascii_case("trailers"));
        }
        gone.push(name.clone());
    }
    gone.iter().for_each(|name| drop(headers.remove(name)));
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// Whether a request asks to go on as a WebSocket. Other upgrades end at the gateway: `h2c` above all would let a
/// client speak past it.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"))
        && headers.get_all(header::UPGRADE).iter().count() == 1
        && headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The client's address: the peer's, or what trusted proxies say, asked from the nearest on.
pub(crate) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Block]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.iter().any(|block| block.contains(client)) {
        return client;
    }
    let hops: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    for hop in hops.into_iter().rev() {
        if !trusted.iter().any(|block| block.contains(client)) {
            break;
        }
        match hop.parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            Err(_) => break,
        }
    }
    client
}

/// An address, and how it is written: in the header `Forwarded`, in others, and in logs. The peer of a connection is
/// written once for all of its requests.
#[derive(Debug)]
pub(crate) struct Client {
    /// In its shortest form: an IPv4 address is one.
    pub address: IpAddr,
    /// As it is written alone.
    pub text: String,
    /// As the value of `X-Forwarded-For`.
    alone: HeaderValue,
    /// As `Forwarded` names it.
    node: String,
}

impl Client {
    pub fn of(address: IpAddr) -> Client {
        let address = address.to_canonical();
        let text = address.to_string();
        // Digits, dots and colons.
        let alone = HeaderValue::try_from(&text).unwrap_or(HeaderValue::from_static("unknown"));
        let node = if address.is_ipv6() { format!("\"[{text}]\"") } else { text.clone() };
        Client { address, text, alone, node }
    }
}

/// What is known about the way a request came.
pub(crate) struct Came<'a> {
    pub peer: &'a Client,
    pub host: &'a HeaderValue,
    pub tls: bool,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
}

/// Tells the service where the request came from, in both spellings.
pub(crate) fn forward(headers: &mut HeaderMap, came: &Came<'_>) {
    let proto = if came.tls { "https" } else { "http" };
    let peer = came.peer;
    append(headers, FORWARDED_FOR, peer.alone.clone());
    // What the first proxy saw is what the client asked for.
    if !(came.trusted && headers.contains_key(FORWARDED_PROTO)) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if !(came.trusted && headers.contains_key(FORWARDED_HOST)) {
        headers.insert(FORWARDED_HOST, came.host.clone());
    }
    let host = came.host.to_str().unwrap_or_default();
    let all = ["for=", &peer.node, ";host=\"", host, "\";proto=", proto].concat();
    if let Ok(all) = HeaderValue::try_from(all) {
        append(headers, FORWARDED, all);
    }
}

/// Writes a value behind what trusted proxies have said.
fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(none) => drop(none.insert(value)),
        Entry::Occupied(mut said) => {
            let all = said.iter().chain([&value]).filter_map(|value| value.to_str().ok());
            if let Ok(whole) = HeaderValue::try_from(all.collect::<Vec<_>>().join(", ")) {
                said.insert(whole);
            }
        }
    }
}

/// The request's id: that of a trusted proxy, or a new one.
pub(crate) fn request_id(headers: &HeaderMap, trusted: bool) -> HeaderValue {
    let plain = |v: &&HeaderValue| {
        (1..=MAX_REQUEST_ID).contains(&v.len())
            && v.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(b))
    };
    let given = if trusted { headers.get(REQUEST_ID) } else { None };
    given.filter(plain).cloned().unwrap_or_else(new_id)
}

/// A UUID of version 7. Nobody may rely on its being hard to guess, so that its chance need not come from the system at each
/// request: it follows from a number drawn once and a count.
fn new_id() -> HeaderValue {
    static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(2, Ordering::Relaxed);
    let mut chance = [0; 10];
    let numbers = [count, count + 1].map(|count| balance::mix(SEED.wrapping_add(count)).to_le_bytes());
    chance.iter_mut().zip(numbers.as_flattened()).for_each(|(byte, number)| *byte = *number);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or_default();
    let mut text = uuid::Uuid::encode_buffer();
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &chance).into_uuid();
    HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut text)).unwrap_or(HeaderValue::from_static("-"))
}

/// Bytes of all names and values.
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &[(&'static str, &str)]) -> HeaderMap {
        text.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn what_is_about_a_connection_ends_with_it() {
        for (before, after) in [
            (vec![("connection", "close, x-secret"), ("x-secret", "1"), ("x-open", "2")], vec![("x-open", "2")]),
            (vec![("te", "trailers, deflate")], vec![("te", "trailers")]),
            (vec![("te", "gzip")], vec![]),
            (vec![("upgrade", "h2c"), ("http2-settings", "AA"), ("connection", "upgrade, http2-settings")], vec![]),
            (vec![("transfer-encoding", "chunked"), ("keep-alive", "timeout=5")], vec![]),
            (
                vec![("proxy-authorization", "Basic eA=="), ("authorization", "Basic eQ==")],
                vec![("authorization", "Basic eQ==")],
            ),
        ] {
            let mut headers = map(&before);
            end_hop(&mut headers);
            assert_eq!(headers, map(&after), "{before:?}");
            let mut headers = map(&before);
            end_request_hop(&mut headers, false);
            assert_eq!(headers, map(&after), "{before:?}");
        }
    }

    #[test]
    fn only_a_websocket_goes_on() {
        for (headers, goes_on) in [
            (vec![("connection", "Upgrade"), ("upgrade", "WebSocket")], true),
            (vec![("connection", "keep-alive, upgrade"), ("upgrade", "websocket")], true),
            (vec![("connection", "upgrade"), ("upgrade", "h2c")], false),
            (vec![("connection", "upgrade"), ("upgrade", "websocket, h2c")], false),
            (vec![("upgrade", "websocket")], false),
        ] {
            assert_eq!(wants_websocket(&map(&headers)), goes_on, "{headers:?}");
        }
    }

    #[test]
    fn a_client_is_believed_only_through_trusted_proxies() {
        let trusted = [Block::parse("10.0.0.0/8").unwrap()];
        for (peer, said, client_is) in [
            ("9.9.9.9", "1.1.1.1", "9.9.9.9"),
            ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
            ("10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
            ("10.0.0.1", "1.1.1.1, 10.0.0.2", "1.1.1.1"),
            ("10.0.0.1", "6.6.6.6, nonsense, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "", "10.0.0.1"),
        ] {
            let headers = map(&[("x-forwarded-for", said)]);
            let found = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found.to_string(), client_is, "{peer} {said}");
        }
    }

    #[test]
    fn what_is_said_about_the_client_is_replaced_or_continued() {
        let said = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https"), ("x-real-ip", "6.6.6.6")];
        let peer = Client::of("10.0.0.1".parse().unwrap());
        let host = HeaderValue::from_static("a.example:80");
        let came = |trusted| Came { peer: &peer, host: &host, tls: false, trusted };
        let mut headers = map(&said);
        end_request_hop(&mut headers, false);
        forward(&mut headers, &came(false));
        assert_eq!(
            (&headers["x-forwarded-for"], &headers["x-forwarded-proto"]),
            (&"10.0.0.1".parse().unwrap(), &"http".parse().unwrap())
        );
        assert!(!headers.contains_key("x-real-ip"));
        assert_eq!(headers["forwarded"], "for=10.0.0.1;host=\"a.example:80\";proto=http");
        let mut headers = map(&said);
        end_request_hop(&mut headers, true);
        forward(&mut headers, &came(true));
        assert_eq!(
            (&headers["x-forwarded-for"], &headers["x-forwarded-proto"]),
            (&"1.1.1.1, 10.0.0.1".parse().unwrap(), &"https".parse().unwrap())
        );
    }

    #[test]
    fn no_two_requests_have_one_id() {
        let ids: std::collections::HashSet<HeaderValue> = (0..10_000).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            let id: uuid::Uuid = id.to_str().unwrap().parse().unwrap();
            assert_eq!(id.get_version_num(), 7);
        }
    }

    #[test]
    fn names_of_the_gateway_and_ambiguous_ones_are_removed() {
        let mut headers =
            map(&[("pavane-caller", "root"), ("x_forwarded_for", "1.1.1.1"), ("content_length", "0"), ("x-fine", "1")]);
        headers.append("x-fine", HeaderValue::from_static("2"));
        end_request_hop(&mut headers, true);
        assert_eq!(headers.get_all("x-fine").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers.keys_len(), 1, "{headers:?}");
    }
}
