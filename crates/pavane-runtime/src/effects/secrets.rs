//! Putting sealed secrets back into a request, at the last moment before it is sent.
//!
//! The core seals a secret as a marker (see `pavane_core::engine::secret`); here is the only place where it becomes the
//! value again, and nothing that was opened is logged or stored.

use std::borrow::Cow;
use std::collections::BTreeMap;

use pavane_core::Value;
use pavane_core::engine::secret::{self, CLOSE, ENCODED, OPEN};
use pavane_core::engine::{Credentials, HttpRequest};

/// Secrets by name.
pub(super) type Secrets = BTreeMap<String, Value>;

/// Opens every marker in a text.
pub(super) fn open(text: &str, secrets: &Secrets) -> Result<String, String> {
    if !text.contains(OPEN) {
        return Ok(text.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        out.push_str(before);
        let (marker, after) = after.split_once(CLOSE).ok_or("a sealed secret is cut off: use it whole")?;
        match marker.strip_prefix(ENCODED) {
            Some(marker) => encode(&lookup(marker, secrets)?, &mut out),
            None => out.push_str(&lookup(marker, secrets)?),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Percent-encodes all but the unreserved characters (RFC 3986).
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn lookup(marker: &str, secrets: &Secrets) -> Result<String, String> {
    let (name, pointer) = marker.find('/').map_or((marker, ""), |at| marker.split_at(at));
    let secret = secrets.get(name).ok_or_else(|| format!("the secret `{name}` is not granted here"))?;
    let json: serde_json::Value = secret.into();
    match json.pointer(pointer) {
        Some(serde_json::Value::String(text)) => Ok(text.clone()),
        Some(value) => Ok(value.to_string()),
        None => Err(format!("the secret `{name}` has nothing at `{pointer}`")),
    }
}

/// Opens every marker of a request. Most have none, and are sent as they are.
pub(super) fn open_request<'a>(request: &'a HttpRequest, secrets: &Secrets) -> Result<Cow<'a, HttpRequest>, String> {
    let mut texts = request.headers.iter().chain(&request.query).flat_map(|(name, value)| [name, value]);
    let plain = request.authentication.is_none()
        && !request.uri.contains(OPEN)
        && !texts.any(|text| text.contains(OPEN))
        && !request.body.as_ref().is_some_and(secret::is_sealed);
    if plain {
        return Ok(Cow::Borrowed(request));
    }
    let pairs = |pairs: &[(String, String)]| -> Result<Vec<(String, String)>, String> {
        pairs.iter().map(|(name, value)| Ok((name.clone(), open(value, secrets)?))).collect()
    };
    Ok(Cow::Owned(HttpRequest {
        method: request.method.clone(),
        uri: open(&request.uri, secrets)?,
        headers: pairs(&request.headers)?,
        query: pairs(&request.query)?,
        body: request.body.as_ref().map(|body| open_value(body, secrets)).transpose()?,
        output: request.output,
        redirect: request.redirect,
        authentication: request.authentication.as_ref().map(|c| open_credentials(c, secrets)).transpose()?,
    }))
}

fn open_credentials(credentials: &Credentials, secrets: &Secrets) -> Result<Credentials, String> {
    Ok(match credentials {
        Credentials::Basic { username, password } => {
            Credentials::Basic { username: open(username, secrets)?, password: open(password, secrets)? }
        }
        Credentials::Bearer { token } => Credentials::Bearer { token: open(token, secrets)? },
    })
}

fn open_value(value: &Value, secrets: &Secrets) -> Result<Value, String> {
    // Most bodies hold no secret: those are sent as they are.
    if !secret::is_sealed(value) {
        return Ok(value.clone());
    }
    if let Some(text) = value.as_str() {
        return open(text, secrets).map(Value::from);
    }
    if let Some(items) = value.as_array() {
        let opened: Result<Vec<Value>, String> = items.iter().map(|item| open_value(item, secrets)).collect();
        return opened.map(Value::array);
    }
    match value.entries() {
        Some(entries) => {
            let opened: Result<Vec<(String, Value)>, String> = entries
                .into_iter()
                .map(|(key, item)| Ok((open(&key, secrets)?, open_value(&item, secrets)?)))
                .collect();
            opened.map(Value::object)
        }
        None => Ok(value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_opened_and_nothing_else() {
        let secrets: Secrets = [("api".to_owned(), Value::parse(br#"{"key":"s3cret","n":7}"#).unwrap())].into();
        let marker = |inner: &str| format!("a {OPEN}{inner}{CLOSE} b");
        assert_eq!(open(&marker("api/key"), &secrets).as_deref(), Ok("a s3cret b"));
        assert_eq!(open(&marker("api/n"), &secrets).as_deref(), Ok("a 7 b"));
        let odd: Secrets = [("api".to_owned(), Value::parse(br#"{"key":"a b/c"}"#).unwrap())].into();
        assert_eq!(open(&marker("%api/key"), &odd).as_deref(), Ok("a a%20b%2Fc b"));
        assert_eq!(open("plain", &secrets).as_deref(), Ok("plain"));
        assert!(open(&marker("other/key"), &secrets).is_err());
        assert!(open(&marker("api/none"), &secrets).is_err());
        assert!(open(&format!("{OPEN}api/key"), &secrets).is_err());
    }
}
